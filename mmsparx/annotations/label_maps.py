"""Label maps: images whose pixels are the indices of classes, as mmseg reads them."""

import os
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from mmsparx.annotations.findings import Findings, Kind

# What mmseg's losses and metrics ignore unless a config says otherwise.
IGNORED = 255

NO_MAP = Kind('the folder holds no label map', 'Name the folder of the PNG files.')
UNREADABLE = Kind('a label map cannot be read', 'Write the file again, or remove it with its image.')
CHANNELS = Kind(
    'a label map has several channels',
    "Write the index of each pixel's class instead of a colour, into a PNG of one channel.",
)
NO_CLASS = Kind(
    f'labels are neither classes nor {IGNORED}, which ends a run',
    'Correct the files, or the number of classes; where 0 is no class and the first is 1, --reduce-zero-label.',
)
NEVER = Kind('a class occurs in no pixel', 'Correct the labels, if that is not meant.', False)
NOTHING = Kind('every pixel of a label map is ignored', 'Correct the labels, if that is not meant.', False)


def check_label_maps(
    root: str | os.PathLike,
    classes: int,
    reduce_zero_label: bool = False,
    progress: Callable[[list[Path]], Iterable[Path]] = iter,
) -> Findings:
    """Check all PNG files in a folder and those below it.

    Args:
        root: Folder of the label maps.
        classes: Number of classes; labels are 0 to `classes` - 1, or 255 for what is ignored.
        reduce_zero_label: Whether 0 is ignored and the first class is 1, as in ADE20K's files.
        progress: Function that shows how far an iteration over the files has come.

    Raises:
        OSError: The folder cannot be read.
    """
    from PIL import Image, UnidentifiedImageError

    findings, root = Findings(root), Path(root)
    files = sorted(path for path in root.rglob('*') if path.suffix.lower() == '.png')
    if not files:
        findings.add(NO_MAP)
    first = int(reduce_zero_label)
    seen = np.zeros(classes, bool)
    for path in progress(files):
        name = path.relative_to(root).as_posix()
        try:
            with Image.open(path) as image:
                labels = np.unique(np.asarray(image)) if len(image.getbands()) == 1 else None
        except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:  # as Pillow's readers raise them
            findings.add(UNREADABLE, name, str(error))
            continue
        if labels is None:
            findings.add(CHANNELS, name)
            continue
        labels = labels.astype(int)
        used = labels[(labels != IGNORED) & (labels >= first)] - first
        if wrong := (used[used >= classes] + first).tolist():
            findings.add(NO_CLASS, name, f'{wrong}; expected {first} to {classes - 1 + first}, or {IGNORED}')
        elif not used.size:
            findings.add(NOTHING, name)
        seen[used[used < classes]] = True
    if files:
        for label in np.flatnonzero(~seen).tolist():
            findings.add(NEVER, f'label {label + first}')
    return findings
