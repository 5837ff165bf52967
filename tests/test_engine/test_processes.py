"""Several processes without GPUs: the config, and the gradients."""

import os
import socket
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from helpers import relative_error
from helpers.toy_run import CONFIG, IMAGES, ToyModel, launched_alone
from mmengine.config import Config

from mmsparx.engine import processes
from mmsparx.engine.processes import ending_process_group, prepare_processes

TESTS = Path(__file__).parents[1]


@pytest.fixture
def launched(monkeypatch):
    """A launched run of one process on a machine without GPUs."""
    monkeypatch.setattr(processes, 'get_device', lambda: 'cpu')
    with launched_alone(monkeypatch):
        yield


def test_the_config_of_a_run_on_cpus(launched, monkeypatch):
    said = []
    monkeypatch.setattr(processes, 'print_log', lambda message, **_: said.append(message))
    start = Mock(wraps=torch.distributed.init_process_group)
    monkeypatch.setattr(torch.distributed, 'init_process_group', start)
    cfg = Config(
        dict(
            launcher='pytorch',
            env_cfg=dict(dist_cfg=dict(backend='nccl', timeout=77)),
            find_unused_parameters=True,
            sync_bn='torch',
            model=dict(
                backbone=dict(norm_cfg=dict(type='SyncBN', requires_grad=False)),
                heads=[dict(norm_cfg=dict(type='GN')), dict(norm_cfg=dict(type='MMSyncBN', eps=0.1))],
            ),
        )
    )
    prepare_processes(cfg)
    assert torch.distributed.get_backend() == 'gloo'
    start.assert_called_once_with('gloo', timeout=timedelta(seconds=77))
    assert cfg.model == dict(
        backbone=dict(norm_cfg=dict(type='BN', requires_grad=False)),
        heads=[dict(norm_cfg=dict(type='GN')), dict(norm_cfg=dict(type='BN', eps=0.1))],
    )
    assert cfg.sync_bn is None
    assert cfg.model_wrapper_cfg == dict(
        type='MMDistributedDataParallel', broadcast_buffers=False, find_unused_parameters=True, device_ids=None
    )
    (said,) = said
    for change in (
        '1 processes on the CPU, over gloo',
        'model.backbone.norm_cfg: SyncBN -> BN',
        'model.heads.1.norm_cfg: MMSyncBN -> BN',
        'sync_bn: torch -> None',
        'model_wrapper_cfg = {',
    ):
        assert change in said
    assert 'heads.0' not in said


@pytest.mark.parametrize(
    ('given', 'expected'),
    [
        (
            dict(model_wrapper_cfg=dict(type='MMSeparateDistributedDataParallel', static_graph=True)),
            dict(model_wrapper_cfg=dict(type='MMSeparateDistributedDataParallel', static_graph=True, device_ids=None)),
        ),
        (
            dict(
                runner_type='FlexibleRunner', strategy=dict(type='DDPStrategy', sync_bn='mmcv', model_wrapper=dict(a=1))
            ),
            dict(strategy=dict(type='DDPStrategy', sync_bn=None, model_wrapper=dict(a=1, device_ids=None))),
        ),
        (
            dict(runner_type='FlexibleRunner', strategy=dict(type='mmsparx.engine.fsdp.FSDPStrategy')),
            dict(strategy=dict(type='mmsparx.engine.fsdp.FSDPStrategy')),
        ),
    ],
)
def test_configured_wrappers_are_kept(launched, given, expected):
    cfg = Config(dict(launcher='pytorch', **given))
    prepare_processes(cfg)
    assert cfg.to_dict() == {'launcher': 'pytorch', **given, **expected}


def test_the_group_is_ended_with_the_run(launched):
    with ending_process_group():
        prepare_processes(Config(dict(launcher='pytorch')))
        assert torch.distributed.is_initialized()
    assert not torch.distributed.is_initialized()
    with ending_process_group():
        pass


def test_after_an_error_the_group_is_ended_when_the_interpreter_has_said_so(launched, monkeypatch):
    at_exit = []
    monkeypatch.setattr(processes.atexit, 'register', at_exit.append)
    prepare_processes(Config(dict(launcher='pytorch')))
    with pytest.raises(RuntimeError, match='of its own'), ending_process_group():
        raise RuntimeError('of its own')
    assert torch.distributed.is_initialized()
    (end,) = at_exit
    end()
    assert not torch.distributed.is_initialized()
    end()


def test_an_error_amid_a_collective_ends_the_process(tmp_path):
    """The other process will never answer; the error is reported, and the exit status is that of an error."""
    script = tmp_path / 'script.py'
    script.write_text("""
import os, time
import torch
from mmsparx.engine import processes

processes._PATIENCE = 2
with processes.ending_process_group():
    torch.distributed.init_process_group('gloo')
    torch.distributed.barrier()
    if os.environ['RANK'] == '0':
        time.sleep(600)
    pending = torch.distributed.broadcast(torch.ones(3), 0, async_op=True)
    raise RuntimeError('of its own')
""")
    alone = dict(WORLD_SIZE='2', MASTER_ADDR='127.0.0.1', MASTER_PORT=str(_free_port()))
    first, second = (
        subprocess.Popen([sys.executable, script], env={**os.environ, **alone, 'RANK': rank}, stderr=subprocess.PIPE)
        for rank in '01'
    )
    try:
        said = second.communicate(timeout=300)[1].decode()
    finally:
        first.kill()
        first.communicate()
    assert second.returncode == 1, said
    assert 'RuntimeError: of its own' in said


def _free_port():
    with socket.socket() as found:
        found.bind(('127.0.0.1', 0))
        return found.getsockname()[1]


def test_without_a_launcher_nothing_is_started_or_changed():
    cfg = Config(dict(launcher='none', model=dict(norm_cfg=dict(type='SyncBN'))))
    prepare_processes(cfg)
    assert cfg.to_dict() == dict(launcher='none', model=dict(norm_cfg=dict(type='SyncBN')))
    assert not torch.distributed.is_initialized()


def test_with_gpus_nothing_is_changed(monkeypatch):
    """mpi's processes learn which of the machine's GPUs is theirs."""
    monkeypatch.setattr(processes, 'get_device', lambda: 'cuda')
    monkeypatch.setenv('LOCAL_RANK', '0')
    for name, value in dict(RANK=3, SIZE=4, LOCAL_RANK=1).items():
        monkeypatch.setenv(f'OMPI_COMM_WORLD_{name}', str(value))
    for name in ('RANK', 'WORLD_SIZE'):  # monkeypatch restores them
        monkeypatch.setenv(name, '')
    cfg = Config(dict(launcher='mpi', model=dict(norm_cfg=dict(type='SyncBN'))))
    prepare_processes(cfg)
    assert cfg.to_dict() == dict(launcher='mpi', model=dict(norm_cfg=dict(type='SyncBN')))
    assert [os.environ[name] for name in ('RANK', 'WORLD_SIZE', 'LOCAL_RANK')] == ['3', '4', '1']
    assert not torch.distributed.is_initialized()


def test_more_processes_than_gpus(launched, monkeypatch):
    monkeypatch.setattr(processes, 'get_device', lambda: 'cuda')
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 2)
    monkeypatch.setenv('LOCAL_WORLD_SIZE', '3')
    with pytest.raises(RuntimeError, match='3 processes were started on a machine with 2 GPUs'):
        prepare_processes(Config(dict(launcher='pytorch')))


def test_a_launcher_that_did_not_launch(monkeypatch):
    monkeypatch.delenv('SLURM_PROCID', raising=False)
    monkeypatch.setenv('SLURM_NTASKS', '1')
    monkeypatch.setenv('SLURM_LOCALID', '0')
    with pytest.raises(RuntimeError, match=r"launcher 'slurm': SLURM_PROCID not set.*slurm_train\.sh"):
        prepare_processes(Config(dict(launcher='slurm')))


SRUN = """#!/usr/bin/env bash
# Starts as many processes as srun would, here.
while [[ $1 == --* ]]; do [[ $1 == --ntasks=* ]] && ntasks=${1#*=}; shift; done
for ((i = 0; i < ntasks; i++)); do
    SLURM_PROCID=$i SLURM_LOCALID=$i SLURM_NTASKS=$ntasks SLURM_NODELIST='here[1]' "$@" & started+=($!)
done
for process in "${started[@]}"; do wait "$process" || status=$?; done
exit "${status:-0}"
"""
SCONTROL = """#!/usr/bin/env bash
[ "$*" = 'show hostnames here[1]' ] && echo 127.0.0.1
"""


def test_gradients_of_two_processes_are_those_of_one(tmp_path):
    """Under Slurm's variables; at the first iteration without gradient checkpointing, at the second with it."""
    for name, script in dict(srun=SRUN, scontrol=SCONTROL).items():
        (tmp_path / name).write_text(script)
        (tmp_path / name).chmod(0o755)
    Config(dict(**CONFIG, custom_hooks=[dict(type='KeepGradients')])).dump(tmp_path / 'toy.py')
    done = subprocess.run(
        [TESTS.parent / 'tools/slurm_train.sh', 'partition', 'job', tmp_path / 'toy.py', '--work-dir', tmp_path],
        env={
            **os.environ,
            'PATH': f'{tmp_path}:{os.environ["PATH"]}',
            'PYTHONPATH': str(TESTS),
            'PYTHON': sys.executable,
            'CUDA_VISIBLE_DEVICES': '-1',
            'GPUS': '2',
        },
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert (done.stdout + done.stderr).count('2 processes on the CPU') == 1

    model = ToyModel(dict(norm_cfg=dict(type='BN'), norm_eval=True))
    model(IMAGES)['loss'].backward()
    expected = {name: parameter.grad for name, parameter in model.named_parameters()}
    for iteration in range(2):
        first, second = (
            torch.load(tmp_path / f'gradients_{iteration}_of_rank_{rank}.pth', weights_only=True) for rank in range(2)
        )
        assert first.keys() == second.keys() == expected.keys()
        for name, gradient in expected.items():
            assert gradient.any()
            assert torch.equal(first[name], second[name])
            assert relative_error(first[name], gradient) < 1e-5, (iteration, name)
