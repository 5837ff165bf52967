"""Folders of images, one for each class, as mmpretrain's CustomDataset reads them."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mmsparx.annotations.classes import check_names, near
from mmsparx.annotations.findings import Findings, Kind

# Endings that mmpretrain reads unless a dataset says otherwise.
EXTENSIONS = ('.jpg', '.jpeg', '.png', '.ppm', '.bmp', '.pgm', '.tif')

HIDDEN = Kind(
    'a hidden folder counts as a class, so that the labels of the classes after it are wrong', 'Remove the folder.'
)
ALIKE = Kind('two folders of classes differ in case or punctuation alone', 'Merge them, if they are one class.', False)
EMPTY = Kind(
    'the folder of a class holds no image of the extensions that are read, so that the class never occurs',
    'Add images, or remove the folder in all splits.',
    False,
)
NO_IMAGE = Kind(
    'a file is passed over, as its extension is none that is read',
    "Convert it, or add the extension to the dataset's `extensions` if it is an image.",
    False,
)
LOOSE = Kind('an image is in no folder of a class, and is passed over', 'Move it into the folder of its class.', False)
NUMBER = Kind(
    'the dataset has another number of classes than there are folders',
    'Write metainfo=dict(classes=...) in the order of the sorted folders, or leave it out.',
)
ORDER = Kind(
    'the classes of the dataset are not the sorted folders, by which labels are given, so that images get the names of '
    'other classes',
    'Write metainfo=dict(classes=...) in the order of the sorted folders, or leave it out.',
)
OTHER_FOLDERS = Kind(
    'the folders of classes differ from those of the training set, so that labels mean other classes',
    'Make the same folders in both; one may be empty.',
)


@dataclass
class ClassFolders:
    """The findings of a check, and the names of the folders in the order of their labels."""

    findings: Findings
    names: list[str]


def check_folders(
    root: str | os.PathLike, extensions: Sequence[str] = EXTENSIONS, classes: object = None, setting: str = 'dataset'
) -> ClassFolders:
    """Check folders of images, one for each class.

    Args:
        root: Folder of these folders.
        extensions: Endings of the names of files that are read, in lower case.
        classes: Names of the classes, as `metainfo.classes`; without, the folders' names are the classes'.
        setting: Key of the dataset in its config, for messages.

    Raises:
        OSError: A folder cannot be read.
    """
    findings, extensions = Findings(root), tuple(extensions)
    with os.scandir(root) as entries:
        inside = sorted(entries, key=lambda entry: entry.name)
    names = [entry.name for entry in inside if entry.is_dir()]
    for entry in inside:
        if entry.is_file() and entry.name.lower().endswith(extensions):
            findings.add(LOOSE, entry.name)
    for i, name in enumerate(names):
        if name.startswith('.'):
            findings.add(HIDDEN, name)
        if alike := near(name, names[:i]):
            findings.add(ALIKE, f'{alike!r} and {name!r}')
        if not _has_image(Path(root, name), extensions, findings):
            findings.add(EMPTY, name)
    if classes is not None and check_names(findings, classes, setting):
        _compare(findings, classes, names, setting)
    return ClassFolders(findings, names)


def check_same_folders(training: str | os.PathLike, other: ClassFolders) -> None:
    """Compare the folders of a split with those of the training set; what differs goes to the findings of the split.

    Args:
        training: Folder of the folders of the training set.
        other: Checked folders of another split.

    Raises:
        OSError: The folder cannot be read.
    """
    with os.scandir(training) as entries:
        names = {entry.name for entry in entries if entry.is_dir()}
    for name in sorted(names - set(other.names)):
        other.findings.add(OTHER_FOLDERS, f'{name!r} is not here, but in {training}')
    for name in sorted(set(other.names) - names):
        other.findings.add(OTHER_FOLDERS, f'{name!r} is here, but not in {training}')


def _has_image(folder: Path, extensions: tuple[str, ...], findings: Findings) -> bool:
    found = False
    for parent, _, files in os.walk(folder):
        for file in files:
            if file.startswith('.'):
                continue
            if file.lower().endswith(extensions):
                found = True
            else:
                findings.add(NO_IMAGE, str(Path(parent, file).relative_to(folder.parent)))
    return found


def _compare(findings: Findings, classes: Sequence[str], names: list[str], setting: str) -> None:
    """Other names than the folders' are fine, as words for the numbers of ImageNet; the same in disorder are not."""
    if len(classes) != len(names):
        findings.add(NUMBER, setting, f'{len(classes)} classes, and {len(names)} folders')
    elif list(classes) != names and any(name in names or near(name, names) for name in classes):
        first = next((a, b) for a, b in zip(classes, names, strict=True) if a != b)
        findings.add(ORDER, setting, 'a class is {!r} where the folder is {!r}'.format(*first))
