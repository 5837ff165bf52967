"""Folders of classes: accidental classes, files that are passed over, and differences between two splits."""

import pytest

from mmsparx.annotations import classes, folders
from mmsparx.annotations.folders import check_folders, check_same_folders

FILES = ('cat/1.jpg', 'cat/deep/2.PNG', 'dog/1.jpg')


@pytest.fixture
def make(tmp_path):
    def make(*files, split='train'):
        for file in files:
            path = tmp_path / split / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        return tmp_path / split

    return make


def found(checked):
    findings = checked.findings
    return {kind: findings.count(kind) for kind in findings.kinds(True) + findings.kinds(False)}


@pytest.mark.parametrize(
    ('more', 'expected'),
    [
        ((), {}),
        (('cat/.DS_Store',), {}),
        (('cat/notes.txt', 'dog/1.webp'), {folders.NO_IMAGE: 2}),
        (('3.jpg',), {folders.LOOSE: 1}),
        (('labels.csv',), {}),
        (('cow/1.webp',), {folders.NO_IMAGE: 1, folders.EMPTY: 1}),
        (('Cat/1.jpg',), {folders.ALIKE: 1}),
        (('.ipynb_checkpoints/1.jpg',), {folders.HIDDEN: 1}),
    ],
)
def test_contents_of_the_folders(make, more, expected):
    assert found(check_folders(make(*FILES, *more))) == expected


def test_extensions_of_the_dataset(make):
    root = make(*FILES, 'dog/1.webp')
    assert found(check_folders(root, ['.jpg', '.png', '.webp'])) == {}
    assert found(check_folders(root, ['.webp'])) == {folders.NO_IMAGE: 3, folders.EMPTY: 1}


@pytest.mark.parametrize(
    ('given', 'expected'),
    [
        (('cat', 'dog'), {}),
        (('felis catus', 'canis lupus'), {}),  # as ImageNet's words for its numbers
        (('dog', 'cat'), {folders.ORDER: 1}),
        (('Cat', 'Dog'), {folders.ORDER: 1}),
        (('cat', 'cow'), {folders.ORDER: 1}),
        (('cat', 'cow', 'dog'), {folders.NUMBER: 1}),
        ('cat', {classes.NO_NAMES: 1}),
    ],
)
def test_classes_of_the_dataset(make, given, expected):
    assert found(check_folders(make(*FILES), classes=given)) == expected


def test_two_splits(make):
    training = make(*FILES, 'cow/1.jpg')
    same = check_folders(make(*FILES, 'cow/1.jpg', split='val'))
    check_same_folders(training, same)
    assert not found(same)
    other = check_folders(make(*FILES, 'Cow/1.jpg', split='test'))
    check_same_folders(training, other)
    assert found(other) == {folders.OTHER_FOLDERS: 2}
    assert "'cow' is not here, but in " in other.findings.text(is_error=True)
