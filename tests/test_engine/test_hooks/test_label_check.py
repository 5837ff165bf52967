"""What LabelCheckHook says of datasets and label maps that do not fit a head."""

from types import SimpleNamespace

import pytest
import torch

pytest.importorskip('mmseg', reason='the hook looks for heads of mmseg')
from mmengine.registry import HOOKS, init_default_scope
from mmengine.structures import PixelData
from mmseg.models.decode_heads import FCNHead
from mmseg.structures import SegDataSample
from torch import nn

HOOK = 'mmsparx.LabelCheckHook'


@pytest.fixture(scope='module')
def model():
    init_default_scope('mmseg')  # another test may have left its own
    heads = {name: FCNHead(in_channels=4, channels=4, num_classes=3) for name in ('decode_head', 'auxiliary_head')}
    return nn.ModuleDict({'module': nn.ModuleDict(heads)})  # as in a wrapper


def loop(**metainfo):
    return SimpleNamespace(dataloader=SimpleNamespace(dataset=SimpleNamespace(metainfo=metainfo)))


def started(model, mode, **loops):
    """The hook, after the start of a training, a validation or a test."""
    hook = HOOKS.build(dict(type=HOOK))
    loops = {f'{name}_loop': loops.get(name) for name in ('train', 'val', 'test')}
    getattr(hook, f'before_{mode}')(SimpleNamespace(model=model, **loops))
    return hook


def check(model, labels, **metainfo):
    """Let the hook see a batch with this label map, as a multi-scale test would show it: in several views."""
    sample = SegDataSample(metainfo={'seg_map_path': 'a/1.png', **metainfo})
    if labels is not None:
        sample.gt_sem_seg = PixelData(data=labels)
    hook = started(model, 'test', test=loop())
    hook.before_test_iter(
        None, 0, {'inputs': [[torch.zeros(3, 2, 2)]] * 2, 'data_samples': [[SegDataSample()], [sample]]}
    )


def test_what_fits_passes(model):
    fits = loop(classes=('a', 'b', 'c'), palette=[[0, 128, 255]] * 3)
    started(model, 'train', train=fits, val=fits)
    started(model, 'train', train=loop())  # a dataset that names no classes, and no validation
    started(model, 'val', val=fits)
    check(model, torch.tensor([[[0, 1], [2, 255]]]))
    check(model, None)


@pytest.mark.parametrize(('mode', 'where'), [('train', 'train'), ('train', 'val'), ('val', 'val'), ('test', 'test')])
def test_another_number_of_classes(model, mode, where):
    with pytest.raises(ValueError, match=r'has 2 classes, but module\.decode_head has 3\. Set num_classes'):
        started(model, mode, **{where: loop(classes=('a', 'b'))})


@pytest.mark.parametrize('colour', [[0, 0, 256], [-1, 0, 0], [0, 0]])
def test_a_palette_out_of_range(model, colour):
    with pytest.raises(ValueError, match='expected three numbers from 0 to 255'):
        started(model, 'train', train=loop(classes=('a', 'b', 'c'), palette=[[0, 0, 0], [1, 1, 1], colour]))


@pytest.mark.parametrize('label', [3, 254, -1])
def test_a_label_out_of_range(model, label):
    labels = torch.tensor([[[0, label], [2, 255]]])
    with pytest.raises(ValueError, match=rf'a/1\.png: no class has the labels \[{label}\]\. Expected 0 to 2, or 255'):
        check(model, labels)
    with pytest.raises(ValueError, match=r'higher by 1 \(reduce_zero_label\)'):
        check(model, labels, reduce_zero_label=True)


def test_colours_instead_of_labels(model):
    with pytest.raises(ValueError, match=r'a/1\.png: expected one label per pixel, got an array of shape \(2, 2, 3\)'):
        check(model, torch.zeros(2, 2, 3, dtype=torch.int64))


@pytest.mark.parametrize('mode', ['train', 'val'])
def test_every_iteration_is_checked(model, mode):
    hook = started(model, mode)
    sample = SegDataSample(gt_sem_seg=PixelData(data=torch.full((1, 2, 2), 3)))
    with pytest.raises(ValueError, match=r'no class has the labels \[3\]'):
        getattr(hook, f'before_{mode}_iter')(None, 0, {'data_samples': [sample]})


def test_a_model_without_heads():
    with pytest.raises(ValueError, match='Leave the hook out'):
        started(nn.Linear(1, 1), 'train')
