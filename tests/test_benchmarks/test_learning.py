"""The comparison of variants by training: its networks, a short run, and the committed figures."""

import json
from pathlib import Path

import pytest

pytest.importorskip('mmpretrain', reason='the classifiers are trained by mmpretrain')
pytest.importorskip('timm')
import cv2
import numpy as np
import torch
from mmengine.registry import MODELS, init_default_scope

from benchmarks import command_line, learning, report
from benchmarks.learning import TASKS, VARIANTS
from benchmarks.report import Comparison, Report
from mmsparx.analysis.timing import Timing
from mmsparx.cli.models import load_model
from mmsparx.models import SparXMamba, StagePlan

ROOT = Path(__file__).parents[2]
COMMITTED = sorted((ROOT / report.RESULTS).glob('*/learning_*.json'))


def write_digits(folder: Path) -> None:
    """Write two noisy images of each of ten classes, for training and for validation."""
    rng = np.random.default_rng(0)
    for split in ('train', 'val'):
        for label in range(10):
            path = folder / split / str(label)
            path.mkdir(parents=True)
            for i in range(2):
                cv2.imwrite(str(path / f'{i}.png'), rng.integers(0, 255, (8, 8), dtype=np.uint8))


@pytest.mark.parametrize(
    ('name', 'read'),
    [
        ('plain', [[(), ()], [()] * 7, [(), ()]]),
        ('SparX', [[(), (0, 1)], [(0,), (), (2, 1), (), (4, 1, 3), (), (6, 1, 3, 5)], [(0,), (1,)]]),
        (
            'DGC',
            [
                [(), (0, 1)],
                [(0,), (), (0, 2, 1), (), (0, 2, 4, 1, 3), (), (0, 2, 4, 6, 1, 3, 5)],
                [(0,), (0, 1)],
            ],
        ),
        ('DSN', [[(0,), (1,)], [(0,), *(tuple(range(1, i + 1)) for i in range(1, 7))], [(0,), (1,)]]),
    ],
)
def test_connections_of_the_tiny_network(name, read):
    """Features that each layer of stages 2 to 4 reads: 0 is the stage's input, i + 1 the output of layer i."""
    first, *others = map(VARIANTS[name].connections, SparXMamba.ARCHITECTURES['tiny'].stages)
    assert first == StagePlan(depth=2)
    assert [[plan.sources(i) for i in range(plan.depth)] for plan in others] == read


@pytest.mark.parametrize(
    ('name', 'parts'),
    [
        ('SparX', {'SS2D', 'DMCA'}),
        ('w/o GCCA', {'SS2D', 'NoAttention'}),
        ('Concat', {'SS2D', 'Concat'}),
        ('SRA', {'SS2D', 'SRA'}),
        ('SCA', {'SS2D', 'SCA'}),
        ('SSM', {'SSM', 'DMCA'}),
        ('Bi-SSM', {'BiSSM', 'DMCA'}),
        ('SparX-Swin', {'WindowAttention', 'DMCA'}),
        ('VMamba', {'SS2D'}),
    ],
)
def test_networks_have_their_parts(name, parts, tmp_path):
    cfg = learning.write_config(tmp_path / 'config.py', TASKS['digits'], name)
    init_default_scope(cfg.default_scope)
    found = {type(module).__name__ for module in MODELS.build(cfg.model).modules()}
    known = {'SS2D', 'SSM', 'BiSSM', 'WindowAttention', 'DMCA', 'Concat', 'NoAttention', 'SRA', 'SCA'}
    assert found & known == parts


@pytest.mark.parametrize('name', VARIANTS)
def test_heads_have_the_norm_of_their_backbone(name, tmp_path):
    cfg = learning.write_config(tmp_path / 'config.py', TASKS['digits'], name)
    init_default_scope('mmpretrain')
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    model.head.check_backbone(model.backbone)


def test_a_run_and_its_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(learning, 'LOGGED_EVERY', 1)
    write_digits(tmp_path / 'data/digits')
    options = ['--variants', 'plain', '--iterations', '2', '--threads', '1', '--keep', 'kept']
    path = learning.main(['--task', 'digits', *options])
    (comparison,) = Report.load(path).comparisons
    assert comparison.case == {'seed': 0, 'iterations': 2, 'batch': 64, 'learning rate': 2e-3}
    facts = comparison.timings['plain'].facts
    assert facts.keys() == {'parameters', 'multiply_adds', 'accuracy_at_half', 'accuracy', 'loss'}
    assert 0 <= facts['accuracy'] <= 100
    assert '| plain   |' in path.with_suffix('.md').read_text()
    # The kept files are a model that can be named, wherever they are moved to.
    moved = (tmp_path / 'kept').rename(tmp_path / 'moved')
    assert {file.name for file in moved.iterdir()} == {'plain_seed0.py', 'plain_seed0.pth'}
    model = load_model(str(moved / 'plain_seed0.py'), str(moved / 'plain_seed0.pth'), device='cpu')
    assert sum(x.numel() for x in model.module.parameters()) == facts['parameters']


def test_names_of_kept_models(tmp_path, capsys):
    names = {learning.kept_as(name, seed) for name in VARIANTS for seed in (0, 1)}
    assert len(names) == 2 * len(VARIANTS)
    assert 'w_o_gcca_seed1' in names
    (tmp_path / 'x').touch()
    with pytest.raises(SystemExit):
        learning.main(['--keep', str(tmp_path)])
    assert f'--keep: {tmp_path} is not empty; name another folder' in capsys.readouterr().err


def test_missing_images(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RuntimeError, match=r'train_dataloader\.dataset: data/digits/train does not exist'):
        learning.main(['--task', 'digits', '--variants', 'VMamba'])


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--task', 'imagenet'], "invalid choice: 'imagenet'"),
        (['--variants', 'GCCA'], "invalid choice: 'GCCA'"),
        (['--iterations', '19'], 'expected at least 20, got 19'),
    ],
)
def test_bad_options_say_what_is_wrong(arguments, message, capsys):
    with pytest.raises(SystemExit):
        learning.main(arguments)
    assert message in capsys.readouterr().err


def test_mean_and_deviation():
    def run(seed, accuracy):
        facts = {'parameters': 10**6, 'multiply_adds': 2 * 10**6, 'accuracy_at_half': 50.0, 'loss': 0.5}
        return Comparison({'seed': seed, 'batch': 8}, {'SparX': Timing([1.0], facts={**facts, 'accuracy': accuracy})})

    made = Report('learning', '', {}, {}, [run(0, 90.0), run(1, 92.0), run(2, 97.0)])
    text, _, columns, _, row = learning.tables(made).splitlines()
    assert text == 'batch 8; accuracies in per cent'
    cells = [[cell.strip() for cell in line.strip('|').split('|')] for line in (columns, row)]
    figures = dict(zip(*cells, strict=True))
    assert (figures['mean'], figures['deviation'], figures['seed 2']) == ('93', '3.61', '97')  # 13 ** 0.5
    made.comparisons = made.comparisons[:1]
    assert 'deviation' not in learning.tables(made)


@pytest.mark.parametrize('path', COMMITTED, ids=lambda path: path.stem)
def test_the_documented_tables_are_those_of_the_results(path):
    result = Report.load(path)
    text = f'{command_line.header(result)}\n\n{learning.tables(result)}\n'
    assert path.with_suffix('.md').read_text() == text
    assert text in (ROOT / 'docs/learning.md').read_text()
    assert json.loads(path.read_text())['environment']['git']['dirty'] is False


def test_every_task_has_committed_results():
    assert {path.stem.rpartition('_')[2] for path in COMMITTED} == TASKS.keys()
