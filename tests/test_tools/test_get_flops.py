"""tools/analysis_tools/get_flops.py, against the paper's figures in the metafiles."""

import re
import runpy
import sys

import pytest

pytest.importorskip('mmengine', reason='configs are read by mmengine')
from helpers.configs import CONFIGS

from mmsparx import zoo

TOOL = str(CONFIGS.parent / 'tools/analysis_tools/get_flops.py')
LIBRARIES = {'detection': 'mmdet', 'segmentation': 'mmseg', 'classification': 'mmpretrain'}


@pytest.fixture
def get_flops(monkeypatch, capsys):
    """Run the tool in this process; returns what it prints."""

    def run(*arguments):
        monkeypatch.setattr(sys, 'argv', [TOOL, *map(str, arguments)])
        runpy.run_path(TOOL, run_name='__main__')
        return capsys.readouterr().out

    return run


def figures(printed):
    """(million parameters, billion multiply-adds) of the model; the latter by operator."""
    params, macs = re.search(r'^([\d.]+) M parameters, ([\d.]+) G multiply-adds$', printed, re.MULTILINE).groups()
    by_op = {name: float(value) for value, name in re.findall(r'^ +([\d.]+) G  (\S+)$', printed, re.MULTILINE)}
    return float(params), float(macs), by_op


@pytest.mark.parametrize(
    ('task', 'name'),
    [
        ('detection', 'mask_rcnn_sparx_t_1x'),
        ('segmentation', 'upernet_sparx_t_160k'),
        ('classification', 'sparx_mamba_t_in1k'),
    ],
)
def test_the_papers_figures(task, name, get_flops):
    pytest.importorskip(LIBRARIES[task])
    paper = zoo.read_models(task)[name]['Metadata']
    printed = get_flops(name)
    params, macs, by_op = figures(printed)
    assert params * 1e6 == pytest.approx(paper['Parameters'], rel=0.02)
    assert macs * 1e9 == pytest.approx(paper['FLOPs'], rel=0.01)
    assert sum(by_op.values()) == pytest.approx(macs, abs=0.01)
    assert by_op['mmsparx.cross_selective_scan_fwd'] > 0
    assert 'One multiply-add is one FLOP' in printed


def test_norms(get_flops):
    """The paper's rule for Table 6: 5 per element of a GroupNorm or LayerNorm, 2 of a batch norm, every skip."""
    pytest.importorskip('mmpretrain')
    printed = get_flops('sparx_mamba_t_in1k', '--norms')
    assert figures(printed)[1] == 5.29
    assert figures(get_flops('sparx_mamba_t_in1k'))[1] == 5.25
    assert 'One multiply-add is one FLOP, as in the papers; activations and elementwise' in printed


def test_a_backbone_and_what_it_is_of_the_whole(get_flops):
    """A config by its path; the backbone's multiply-adds grow with the area, its parameters do not."""
    pytest.importorskip('mmdet')
    path = CONFIGS / 'detection/mask_rcnn_sparx_mini_overfit.py'
    params, macs, _ = figures(get_flops(path, '--shape', 256, 320, '--backbone'))
    share = re.search(r'of which the backbone: ([\d.]+) M, ([\d.]+) G', get_flops(path, '--shape', 256, 320))
    assert (params, macs) == tuple(map(float, share.groups()))
    larger = figures(get_flops(path, '--shape', 512, 320, '--backbone'))
    assert larger[0] == params
    assert larger[1] == pytest.approx(2 * macs, rel=0.02)


def test_overrides(get_flops):
    pytest.importorskip('mmpretrain')
    name = 'sparx_mamba_mini_overfit'
    fewer = figures(get_flops(name, '--cfg-options', 'model.head.num_classes=10'))[0]
    assert figures(get_flops(name))[0] - fewer == pytest.approx(990 * 129 / 1e6, abs=0.011)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ([], '--shape HEIGHT WIDTH is needed for a config whose default_scope is None'),
        (['--shape', '0', '32'], 'at least 1, got 0 32'),
    ],
)
def test_a_shape_that_is_missing_or_wrong(arguments, message, tmp_path, get_flops):
    config = tmp_path / 'config.py'
    config.touch()
    with pytest.raises(ValueError, match=message):
        get_flops(config, *arguments)


def test_detectors_that_are_counted_otherwise(tmp_path, get_flops):
    pytest.importorskip('mmdet')
    config = tmp_path / 'config.py'
    config.write_text("_base_ = 'mmdet::cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco.py'")
    with pytest.raises(ValueError, match='--backbone counts the backbone'):
        get_flops(config)
    config.write_text("_base_ = 'mmdet::retinanet/retinanet_r18_fpn_1x_coco.py'")
    assert 20 < figures(get_flops(config))[0] < 22


def test_an_unknown_config(get_flops):
    with pytest.raises(ValueError, match=r"no config file 'mask_rcnn_sparx_t'.*nearest: mask_rcnn_sparx_"):
        get_flops('mask_rcnn_sparx_t')
