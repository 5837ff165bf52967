"""The JSON file beside an exported file is data, and its contents are checked."""

import json

import pytest

pytest.importorskip('mmengine', reason='the networks need it')
from mmsparx.export.description import read_description

WHOLE = {
    'task': 'segmentation',
    'mean': [1, 2, 3.5],
    'std': [1, 1, 2],
    'channels': 'BGR',
    'size': [32, 64],
    'resize': [
        {'step': 'resize', 'scale': [64, 32], 'keep_ratio': True},
        {'step': 'resize_edge', 'scale': 64, 'edge': 'short', 'backend': 'pillow', 'interpolation': 'bicubic'},
        {'step': 'center_crop', 'size': [32, 32]},
        {'step': 'resize_to_multiple', 'divisor': 32},
    ],
    'classes': ['a', 'b'],
    'palette': [[0, 0, 0], [255, 1, 2]],
    'align_corners': True,
}


@pytest.fixture
def read(tmp_path):
    def read(content):
        (tmp_path / 'n.json').write_text(content if isinstance(content, str) else json.dumps(content))
        return read_description(tmp_path / 'n.onnx')

    return read


def test_a_whole_one(read):
    about = read(WHOLE)
    assert (about.task, about.mean, about.bgr, about.size) == ('segmentation', (1, 2, 3.5), True, (32, 64))
    assert (about.classes, about.palette, about.align_corners) == (('a', 'b'), ((0, 0, 0), (255, 1, 2)), True)
    assert [step['step'] for step in about.resize] == [step['step'] for step in WHOLE['resize']]


def test_missing_entries_have_defaults(read):
    about = read({'task': 'features'})
    assert (about.mean, about.std, about.bgr, about.size, about.classes) == ((0,) * 3, (1,) * 3, False, None, None)


@pytest.mark.parametrize(
    ('entry', 'value'),
    [
        ('task', 'cooking'),
        ('task', None),
        ('mean', [1, 2]),
        ('mean', [1, 2, float('nan')]),
        ('std', [1, 0, 1]),
        ('channels', 'RGBA'),
        ('size', [32, -1]),
        ('size', [32, 1 << 20]),
        ('resize', [{'step': 'os.system'}]),
        ('resize', [{'step': 'resize', 'scale': [1 << 30, 1], 'keep_ratio': True}]),
        ('resize', [{'step': 'resize', 'scale': [32, 32], 'keep_ratio': True, 'backend': 'turbo'}]),
        ('resize', [{'step': ['resize']}]),
        ('classes', [1, 2]),
        ('classes', []),
        ('palette', [[0, 0, 256], [0, 0, 0]]),
        ('palette', [[0, 0, 0]]),
        ('mask_threshold', 'x'),
        ('mask_threshold', 2),
        ('align_corners', 1),
    ],
)
def test_other_values_are_refused(read, entry, value):
    with pytest.raises(ValueError, match=f'expected {entry} to be'):
        read({**WHOLE, entry: value})


@pytest.mark.parametrize('content', ['', '[1]', '\x00'])
def test_other_files_are_refused(read, content):
    with pytest.raises(ValueError, match=r'n\.json'):
        read(content)


def test_a_missing_one_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'n\.json, which `mmsparx export` writes beside n\.onnx'):
        read_description(tmp_path / 'n.onnx')
