"""Label maps: images whose pixels are the indices of classes, as mmseg reads them."""

import os
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from mmsparx.annotations.findings import Findings, Kind

# Label that mmseg's losses and metrics ignore unless a config says otherwise.
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
NO_PARTNER = Kind(
    'an image has no label map of its name',
    'Add it, or remove the image; the endings are the img_suffix and seg_map_suffix of the dataset.',
)
NEVER = Kind('a class occurs in no pixel', 'Correct the labels, if that is not meant.', False)
NOTHING = Kind('every pixel of a label map is ignored', 'Correct the labels, if that is not meant.', False)


def check_pairs(
    images: str | os.PathLike, maps: str | os.PathLike, suffix: str = '.jpg', of_map: str = '.png'
) -> Findings:
    """Check that each image in a folder, and below it, has a label map of its name in another.

    Args:
        images: Folder of the images.
        maps: Folder of the label maps.
        suffix: Suffix of the images' names; other files are not images.
        of_map: Suffix of the label maps' names, in its place.

    Raises:
        OSError: A folder cannot be read.
    """
    findings = Findings(maps)
    for name in sorted(_names(images, suffix) - _names(maps, of_map)):
        findings.add(NO_PARTNER, f'{name}{suffix}')
    return findings


def _names(root: str | os.PathLike, suffix: str) -> set[str]:
    """Names of the files that end with a suffix, without it, relative to a folder; mmseg passes over hidden ones."""

    def fail(error: OSError) -> None:
        raise error

    found = set()
    for folder, _, files in os.walk(root, onerror=fail, followlinks=True):
        inside = os.path.relpath(folder, root)
        names = (name for name in files if name.endswith(suffix) and not name.startswith('.'))
        found.update(os.path.normpath(os.path.join(inside, name[: len(name) - len(suffix)])) for name in names)
    return found


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
