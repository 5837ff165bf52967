"""`mmsparx analyze complexity`, against the paper's figures in the metafiles."""

import json
import re

import pytest

pytest.importorskip('mmengine', reason='configs are read by mmengine')
from helpers.configs import CONFIGS, TABLE, committed_table
from helpers.tools import run_command
from mmengine.config import Config
from mmengine.logging import MMLogger

from mmsparx import zoo
from mmsparx.analysis import Complexity
from mmsparx.cli.analyze import counting, paper_table

MODELS = {
    name: model
    for task in ('ablations', 'classification', 'detection', 'segmentation')
    for name, model in zoo.read_models(task).items()
}
LIBRARIES = {'detection': 'mmdet', 'segmentation': 'mmseg', 'classification': 'mmpretrain'}


@pytest.fixture
def get_flops(capsys):
    """Run the command in this process; returns what it prints."""

    def run(*arguments):
        logger = MMLogger.get_current_instance()
        level = logger.level
        try:
            run_command('analyze', 'complexity', *arguments)
        finally:
            logger.setLevel(level)
        return capsys.readouterr().out

    return run


def figures(printed):
    """(million parameters, billion multiply-adds) of the model, the latter per operator."""
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


def test_a_backbone_and_its_share(get_flops):
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
    more = figures(get_flops(name, '--cfg-options', 'model.head.num_classes=1014'))[0]
    assert more - figures(get_flops(name))[0] == pytest.approx(1000 * 129 / 1e6, abs=0.011)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ([], '--shape HEIGHT WIDTH is needed for a config whose default_scope is None'),
        (['--backbone', '--shape', '32', '32'], 'expected a config with a model, got none'),
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
    with pytest.raises(ValueError, match=r"no model 'mask_rcnn_sparx_t'.*nearest: mask_rcnn_sparx_"):
        get_flops('mask_rcnn_sparx_t')


@pytest.mark.parametrize(
    ('name', 'shape'), [('sparx_mamba_mini_overfit', None), ('mask_rcnn_sparx_mini_overfit', (64, 96))]
)
def test_parts_and_operators_are_the_whole(name, shape, get_flops, tmp_path):
    pytest.importorskip('mmdet')
    out = tmp_path / 'counted.json'
    printed = get_flops(name, '--out', out, *(['--shape', *shape] if shape else []))
    found = json.loads(out.read_text())
    parts = {name: part for name, part in found['by_part'].items() if name != 'backbone'}
    assert sum(part['multiply_adds'] for part in parts.values()) == found['multiply_adds']
    assert sum(part['parameters'] for part in parts.values()) == found['parameters']
    assert sum(found['by_operator'].values()) == found['multiply_adds']
    assert {'backbone.stem', *(f'backbone.stages.{i}' for i in range(4))} < parts.keys()
    inside = [part['multiply_adds'] for name, part in parts.items() if name.startswith('backbone.')]
    assert sum(inside) == found['by_part']['backbone']['multiply_adds']
    assert f'{parts["backbone.stem"]["multiply_adds"] / 1e9:10.3f} G' in printed


def test_a_model_of_timm(get_flops, tmp_path):
    """ConvNeXt's figures are those of its paper: 4.5 G and 29 M, and 13.1 G at 384x384."""
    pytest.importorskip('timm')
    out = tmp_path / 'counted.md'
    assert figures(get_flops('convnext_tiny', '--out', out))[:2] == (28.59, 4.46)
    assert '4.46 G multiply-adds' in out.read_text()
    assert figures(get_flops('convnext_tiny', '--shape', 384, 384))[1] == pytest.approx(13.1, abs=0.05)
    with pytest.raises(ValueError, match='is a model of timm, and has no config'):
        get_flops('convnext_tiny', '--cfg-options', 'a=1')


def test_where_counts_cannot_be_written(get_flops, tmp_path):
    (tmp_path / 'there.md').touch()
    with pytest.raises(FileExistsError, match='exists already'):
        get_flops('sparx_mamba_t_in1k', '--out', tmp_path / 'there.md')
    with pytest.raises(ValueError, match=r'expected the name of a \.json or \.md file'):
        get_flops('sparx_mamba_t_in1k', '--out', 'there.csv')


class TestPaperAgainstCounted:
    """docs/paper_against_counted.md is the output of `--paper`.

    Counting all takes minutes, so only the GFLOPs of classifiers are counted here; the tests of the configs compare the
    parameters of all.
    """

    def test_rows_and_the_papers_figures(self):
        assert TABLE.read_text().startswith(f'{paper_table.PAPER}\n| {" | ".join(paper_table.COLUMNS)} |\n')
        assert list(committed_table()) == list(MODELS)
        for name, (_, params, _, flops, _, _, agrees, design) in committed_table().items():
            model = MODELS[name]
            assert (params, flops) == tuple(str(figure or '-') for figure in zoo.paper_figures(model))
            assert design == model['Metadata']['Design']
            if agrees.startswith('no: '):
                assert 'does not agree' in design

    @pytest.mark.parametrize('name', [name for name in MODELS if name.endswith('_in1k')])
    def test_classifiers(self, name):
        pytest.importorskip('mmpretrain')
        costs = paper_table.count_both(Config.fromfile(zoo.find_config(name)))
        assert list(paper_table.compare(MODELS[name], *costs)) == committed_table()[name]

    @pytest.mark.parametrize(
        ('params', 'plain', 'norms', 'agrees'),
        [
            (26.9, 5.21, 5.3, 'yes'),
            (27.51, 5.1, 5.2, 'no: parameters'),  # with norms, GFLOPs do
            (26.9, 5.1, 5.2, 'with norms'),
            (26.9, 5.0, 5.1, 'no: GFLOPs'),
            (20, 5.0, 5.1, 'no: parameters, GFLOPs'),
        ],
    )
    def test_agreement(self, params, plain, norms, agrees):
        costs = [Complexity(round(params * 1e6), {'mm': round(macs * 1e9)}) for macs in (plain, norms)]
        assert paper_table.compare(MODELS['sparx_mamba_t_in1k'], *costs)[6] == agrees

    def test_the_whole_table(self, monkeypatch, get_flops):
        """Each row is printed once, and a network of two configs is counted once."""
        pytest.importorskip('mmdet')
        names = [f'mask_rcnn_sparx_t_{schedule}' for schedule in ('1x', '3x')]
        monkeypatch.setattr(
            paper_table, 'read_models', lambda task: {name: MODELS[name] for name in names if task == 'detection'}
        )
        monkeypatch.setattr(paper_table, 'list_configs', lambda: [zoo.ShippedConfig(CONFIGS, 'detection')] * 2)
        counts = []
        whole = counting.two_stage_complexity
        monkeypatch.setattr(
            counting, 'two_stage_complexity', lambda *a, **k: counts.append(k['norms']) or whole(*a, **k)
        )
        *_, first, second = get_flops('--paper').splitlines()
        assert [first, second] == [f'| {" | ".join(committed_table()[name])} |' for name in names]
        assert counts == [False, True]


def test_wrong_arguments_of_a_count(get_flops, capsys):
    for arguments in ([], ['sparx_mamba_t_in1k', '--paper'], ['sparx_mamba_t_in1k', '--shape', '0', '32']):
        with pytest.raises(SystemExit):
            get_flops(*arguments)
        assert 'error: ' in capsys.readouterr().err
