"""Whether the classes of a dataset are those of its files."""

from collections.abc import Mapping, Sequence

from mmsparx.annotations.findings import Findings, Kind

NO_NAMES = Kind(
    'metainfo.classes is no list of names',
    "Write a tuple, with a comma also for a single class: metainfo=dict(classes=('cat',)).",
)
CLASS_TWICE = Kind('metainfo.classes has a name twice', 'Name each class once.')
FORGOTTEN = Kind(
    'the classes of the dataset are not the categories of the file',
    "Set metainfo=dict(classes=...) to the file's categories.",
)
NO_CATEGORY = Kind(
    'a class of the dataset is no category of the file, so that the labels of all classes after it are wrong',
    'Write the names in metainfo=dict(classes=...) as in the file, or add the category there; it needs no object.',
)
ORDER = Kind(
    'the classes of the dataset are in another order than the categories of the file, by which mmdet numbers them, so '
    'that objects get the names of other classes',
    'Write metainfo=dict(classes=...) in the order of the file.',
)
NO_CLASS = Kind(
    'a category of the file is no class of the dataset, and its objects are left out',
    'Add it to metainfo=dict(classes=...) if they are to be learned.',
    False,
)


def check_names(findings: Findings, classes: object, setting: str) -> bool:
    """Whether `metainfo.classes` is a list of different names; else what is wrong goes to the findings."""
    if not isinstance(classes, (list, tuple)) or not all(isinstance(name, str) for name in classes):
        findings.add(NO_NAMES, setting, classes if isinstance(classes, (list, tuple)) else repr(classes))
        return False
    for name in sorted({name for name in classes if classes.count(name) > 1}):
        findings.add(CLASS_TWICE, setting, repr(name))
    return True


def check_classes(
    findings: Findings, classes: Sequence[str], categories: Mapping[int, str], setting: str, is_default: bool = False
) -> None:
    """Compare the classes of a dataset with the categories of an annotation file in COCO's format.

    Args:
        findings: List that faults are added to.
        classes: Names, as `metainfo.classes` of the dataset.
        categories: Names by their ids, in the order in which labels are given.
        setting: Key of the dataset in its config, for messages.
        is_default: Whether the classes are those of the dataset's class, and its config has none.
    """
    if not check_names(findings, classes, setting) or not categories:
        return
    names = list(categories.values())
    missing = [name for name in classes if name not in names]
    if missing and (is_default or not any(name in names or near(name, names) for name in classes)):
        by = ' by default, as its config names none' if is_default else ''
        has = (
            f'{len(classes)} classes ({_listed(classes)}){by}, and the file {len(names)} categories ({_listed(names)})'
        )
        findings.add(FORGOTTEN, setting, f'the dataset has {has}')
        return
    for name in missing:
        alike = near(name, names)
        findings.add(NO_CATEGORY, setting, f'{name!r}' + (f', and the file has {alike!r}' if alike else ''))
    for name in names:
        if name not in classes:
            findings.add(NO_CLASS, setting, repr(name))
    wanted, found = [[name for name in each if name in other] for each, other in ((classes, names), (names, classes))]
    if wanted != found:
        findings.add(ORDER, setting, f'{_listed(wanted)}; the file has {_listed(found)}')


def near(name: str, names: Sequence[str]) -> str | None:
    """The one of the names that differs in case, blanks, hyphens or underscores alone."""
    bare = _bare(name)
    return next((other for other in names if bare and _bare(other) == bare and other != name), None)


def _bare(name: str) -> str:
    return ''.join(filter(str.isalnum, name.casefold()))


def _listed(names: Sequence[str]) -> str:
    return ', '.join([*map(repr, names[:5]), *(['...'] if len(names) > 5 else [])])
