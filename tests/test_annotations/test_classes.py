"""Classes of a dataset against the categories of its file."""

import pytest

from mmsparx.annotations import classes as module
from mmsparx.annotations.classes import check_classes
from mmsparx.annotations.findings import Findings

FILE = {3: 'cat', 1: 'dog', 7: 'traffic light'}


@pytest.mark.parametrize(
    ('classes', 'expected'),
    [
        (('cat', 'dog', 'traffic light'), {}),
        (['cat', 'traffic light'], {module.NO_CLASS: 1}),
        (('Cat', 'dog', 'traffic light'), {module.NO_CATEGORY: 1, module.NO_CLASS: 1}),
        (('cat', 'dog', 'traffic_light'), {module.NO_CATEGORY: 1, module.NO_CLASS: 1}),
        (('cat ', 'dog', 'traffic light'), {module.NO_CATEGORY: 1, module.NO_CLASS: 1}),
        (('cat', 'cow', 'dog', 'traffic light'), {module.NO_CATEGORY: 1}),
        (('dog', 'cat', 'traffic light'), {module.ORDER: 1}),
        (('traffic light', 'cat'), {module.ORDER: 1, module.NO_CLASS: 1}),
        (('person', 'bicycle', 'car', 'bus'), {module.FORGOTTEN: 1}),
        (('CAT', 'DOG'), {module.NO_CATEGORY: 2, module.NO_CLASS: 3}),
        (('cat', 'dog', 'dog', 'traffic light'), {module.CLASS_TWICE: 1, module.ORDER: 1}),
        ('cat', {module.NO_NAMES: 1}),
        ((1, 2, 3), {module.NO_NAMES: 1}),
    ],
)
def test_differences_are_named(classes, expected):
    findings = Findings('f.json')
    check_classes(findings, classes, FILE, 'train_dataloader.dataset')
    kinds = findings.kinds(True) + findings.kinds(False)
    assert {kind: findings.count(kind) for kind in kinds} == expected


def text_of(classes):
    findings = Findings('f.json')
    check_classes(findings, classes, FILE, 'train_dataloader.dataset')
    return findings.text(is_error=True)


def test_the_nearest_name_is_given():
    assert "    train_dataloader.dataset: 'Cat', and the file has 'cat'\n" in text_of(('Cat', 'dog', 'traffic light'))


def test_both_numbers_are_given_where_the_classes_are_the_defaults():
    text = text_of(('person', 'bicycle', 'car', 'bus'))
    assert (
        "the dataset has 4 classes ('person', 'bicycle', 'car', 'bus'), and the file 3 categories ('cat', 'dog'" in text
    )
    assert 'metainfo=dict(classes=...)' in text
