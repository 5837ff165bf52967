"""Several processes through tools/dist_*.sh, on the CPU: their training, their test, and their end."""

import os
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import relative_error
from helpers.toy_run import CONFIG as TOY
from helpers.toy_run import IMAGES, ToyModel, launched_alone
from mmengine.config import Config

from mmsparx.weights import read_checkpoint

TESTS = Path(__file__).parents[1]
FSDP_EXAMPLE = TESTS.parent / 'configs/detection/examples/mask_rcnn_sparx_t_1x_fsdp.py'


def dist(script: str, *arguments, fails: bool = False, tools: Path = TESTS.parent / 'tools') -> str:
    """Run a script that should succeed, or fail, and return its output."""
    done = subprocess.run(
        [tools / script, *map(str, arguments)],
        env={**os.environ, 'PYTHONPATH': str(TESTS), 'PYTHON': sys.executable, 'CUDA_VISIBLE_DEVICES': '-1'},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
    )
    assert bool(done.returncode) is fails, done.stdout
    assert 'terminate called' not in done.stdout  # torch's threads print it if a process does not end its group
    return done.stdout


def load(path: Path) -> dict:
    return read_checkpoint(path)


def test_a_killed_process_ends_the_run(tmp_path):
    """The error has the rank and the signal, however long the other process would have waited."""
    for script in ('dist_train.sh', 'launch.sh'):
        shutil.copy(TESTS.parent / 'tools' / script, tmp_path)
    (tmp_path / 'train.py').write_text("""
import os, signal, time
if os.environ['RANK'] == '1':
    os.kill(os.getpid(), signal.SIGKILL)
time.sleep(3600)
""")
    report = dist('dist_train.sh', 'config.py', 2, fails=True, tools=tmp_path).rpartition('FAILED')[2]
    assert re.search(r'rank +: 1 .*\n +exitcode +: -9 ', report), report
    assert 'Signal 9 (SIGKILL) received' in report


@pytest.fixture
def sharded(tmp_path) -> Path:
    """A config of the toy run with the strategy of the example."""
    cfg = Config(TOY)
    cfg.merge_from_dict(
        {
            'runner_type': 'FlexibleRunner',
            'strategy': Config.fromfile(FSDP_EXAMPLE).strategy,
            'optim_wrapper.optimizer': dict(type='AdamW', lr=0.01),
            'custom_hooks': [dict(type='KillDataWorker')],
            'model.backbone.with_cp': True,
            'train_dataloader.num_workers': 1,
        }
    )
    cfg.dump(tmp_path / 'sharded.py')
    return tmp_path / 'sharded.py'


def test_an_error_ends_a_sharded_run_which_resumes(sharded, tmp_path):
    """In the second of two iterations one process raises an error while the other one waits for its shards.

    A resumed run ends with the weights and moments of a single process that saw all images.
    """
    said = dist('dist_train.sh', sharded, 2, '--work-dir', tmp_path, fails=True)
    report = said.rpartition('FAILED')[2]
    assert re.search(r'rank +: 1 .*\n +exitcode +: 1 ', report), said
    assert re.search(r'RuntimeError: DataLoader worker \(pid.*\) is killed by signal: Killed', report), said
    assert [path.name for path in tmp_path.glob('iter_*')] == ['iter_1.pth']
    dist('dist_train.sh', sharded, 2, '--work-dir', tmp_path, '--resume', '--cfg-options', 'custom_hooks=[]')

    model = ToyModel(dict(norm_cfg=dict(type='BN'), norm_eval=True))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for _ in range(2):
        optimizer.zero_grad()
        model(IMAGES)['loss'].backward()
        optimizer.step()
    checkpoint = load(tmp_path / 'iter_2.pth')
    resumed = ToyModel(dict(norm_cfg=dict(type='BN')))
    resumed.load_state_dict(checkpoint['state_dict'], strict=True)
    for (name, weight), other in zip(model.named_parameters(), resumed.parameters(), strict=True):
        assert relative_error(other, weight) < 1e-5, name
        for moment in ('exp_avg', 'exp_avg_sq'):
            expected = optimizer.state[weight][moment]
            assert relative_error(checkpoint['optimizer']['state'][name][moment], expected) < 1e-5, (name, moment)


class Mini:
    """Mask R-CNN, two iterations in two processes on three images."""

    def __init__(self, folder: Path):
        from helpers.tools import CONFIG, overrides, write_coco

        write_coco(folder / 'coco', 'train2017', 3, seed=0)
        self.config = folder / 'mini.py'
        self.config.write_text(f"""
_base_ = {CONFIG!r}
custom_imports = dict(imports=['mmsparx.models', 'helpers.toy_run'], allow_failed_imports=False)
custom_hooks = [dict(type='mmsparx.IterationSeedHook'), dict(type='KeepWeights')]
model = dict(backbone=dict(norm_cfg=dict(type='SyncBN')))
""")
        self.options = ['--cfg-options', *overrides(folder / 'coco', **{'train_cfg.val_interval': 9})]
        self.work = folder / 'work'
        arguments = ['--work-dir', self.work, '--no-pretrained', '--auto-scale-lr', *self.options]
        self.said = dist('dist_train.sh', self.config, 2, *arguments)


@pytest.fixture(scope='module')
def mini(tmp_path_factory) -> Mini:
    pytest.importorskip('mmdet', reason='the detection tools need mmdet')
    return Mini(tmp_path_factory.mktemp('mini'))


def test_two_processes_train_one_network(mini):
    assert mini.said.count('no accelerator: 2 processes on the CPU') == 1
    assert 'model.backbone.norm_cfg: SyncBN -> BN' in mini.said
    before, trained = load(mini.work / 'iter_1.pth'), load(mini.work / 'iter_2.pth')
    first, second = (load(mini.work / f'weights_of_rank_{rank}.pth') for rank in range(2))
    for name, weight in first.items():
        assert torch.equal(weight, second[name]), name
        assert torch.equal(weight, trained['state_dict'][name]), name
    assert not all(torch.equal(weight, before['state_dict'][name]) for name, weight in first.items())
    # There are two processes with two images each, while the config's learning rate is for 16.
    assert trained['optimizer']['param_groups'][0]['initial_lr'] == pytest.approx(5e-4 * 4 / 16)


def test_two_processes_test_as_one(mini, tool, tmp_path):
    """Three images: one of them is read by both processes and counts once."""
    arguments, predicted, scores = [mini.config, mini.work / 'iter_2.pth'], [], []
    for count in (1, 2):
        work = tmp_path / f'by_{count}'
        rest = ['--work-dir', work, '--out', work / 'out.pkl', *mini.options, 'log_level=INFO']
        if count == 1:
            tool('test', *arguments, *rest)
        else:
            dist('dist_test.sh', *arguments, count, *rest)
        predicted.append(pickle.loads((work / 'out.pkl').read_bytes()))
        # All processes write the JSON file at once, so it is not read.
        scores.append(re.findall(r'coco/\w+: +\S+', next(work.glob('*/*.log')).read_text()))
    assert len(scores[0]) == 12
    assert scores[0] == scores[1]
    assert [p['img_id'] for p in predicted[0]] == [p['img_id'] for p in predicted[1]] == [0, 1, 2]
    for one, other in zip(*predicted, strict=True):
        one, other = one['pred_instances'], other['pred_instances']
        assert len(one['scores'])
        for part in ('scores', 'labels', 'bboxes'):
            torch.testing.assert_close(one[part], other[part])


def test_the_sharded_example_trains_and_validates(mini, tool, monkeypatch, tmp_path):
    """The test has one process; the checkpoint loads without FSDP."""
    from mmdet.registry import MODELS

    example = tmp_path / 'sharded.py'
    example.write_text(f"""
_base_ = {str(mini.config)!r}
runner_type = 'FlexibleRunner'
strategy = {Config.fromfile(FSDP_EXAMPLE).strategy.to_dict()!r}
optim_wrapper = dict(clip_grad=None)
""")
    options = [*mini.options, 'train_cfg.val_interval=2']
    with launched_alone(monkeypatch):
        tool('train', example, '--work-dir', tmp_path, '--launcher', 'pytorch', *options)
    plain = MODELS.build(Config.fromfile(mini.config).model)
    plain.load_state_dict(load(tmp_path / 'iter_2.pth')['state_dict'], strict=True)
