"""The shell scripts: what they start, and what they say when they are called wrongly."""

import os
import subprocess
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[2] / 'tools'
# What would change the commands, were it set where the tests run.
VARIABLES = [
    'NNODES',
    'NODE_RANK',
    'MASTER_ADDR',
    'MASTER_PORT',
    'PORT',
    'GPUS',
    'GPUS_PER_NODE',
    'CPUS_PER_TASK',
    'SRUN_ARGS',
]


def call(script, *arguments, path='', **environment):
    """Run a script with `echo` for Python."""
    inherited = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    return subprocess.run(
        [TOOLS / script, *arguments],
        env={**inherited, 'PATH': f'{path}:{os.environ["PATH"]}', 'PYTHON': 'echo', **environment},
        capture_output=True,
        text=True,
    )


@pytest.fixture
def srun(tmp_path):
    """A folder with an srun that prints the port and what it would run, an argument per line."""
    path = tmp_path / 'srun'
    path.write_text('#!/usr/bin/env bash\nprintf "%s\\n" "$MASTER_PORT" "$@"\n')
    path.chmod(0o755)
    return tmp_path


def test_one_machine():
    """At a free port, so that two runs on it do not meet."""
    done = call('dist_train.sh', 'config.py', '8', '--resume')
    assert (
        done.stdout.split()
        == (
            '-m torch.distributed.run --standalone --local-addr=127.0.0.1 --nproc-per-node=8 '
            f'{TOOLS}/train.py --launcher pytorch config.py --resume'
        ).split()
    )


def test_one_machine_and_a_port():
    done = call('dist_test.sh', 'config.py', 'weights.pth', '4', '--out', 'out.pkl', PORT='1234')
    assert (
        done.stdout.split()
        == (
            '-m torch.distributed.run --master-addr=127.0.0.1 --master-port=1234 --nproc-per-node=4 '
            f'{TOOLS}/test.py --launcher pytorch config.py weights.pth --out out.pkl'
        ).split()
    )


def test_several_machines():
    nodes = dict(NNODES='2', NODE_RANK='1', MASTER_ADDR='host')
    done = call('dist_train.sh', 'config.py', '8', **nodes)
    assert (
        done.stdout.split()
        == (
            '-m torch.distributed.run --nnodes=2 --node-rank=1 --master-addr=host --master-port=29500 '
            f'--nproc-per-node=8 {TOOLS}/train.py --launcher pytorch config.py'
        ).split()
    )
    assert '--master-port=1234' in call('dist_train.sh', 'config.py', '8', PORT='1234', **nodes).stdout
    for name in ('NODE_RANK', 'MASTER_ADDR'):
        done = call('dist_train.sh', 'config.py', '8', **{**nodes, name: ''})
        assert done.returncode
        assert f'{name}: has to be set' in done.stderr


def test_slurm_train(srun):
    done = call('slurm_train.sh', 'partition', 'a job', 'config.py', '--amp', path=srun)
    port, *command = done.stdout.splitlines()
    assert 10000 <= int(port) < 30000
    assert command == [
        '--partition=partition', '--job-name=a job', '--gres=gpu:8', '--ntasks=8', '--ntasks-per-node=8',
        '--cpus-per-task=5', '--kill-on-bad-exit=1',
        'echo', '-u', f'{TOOLS}/train.py', '--launcher', 'slurm', 'config.py', '--amp',
    ]  # fmt: skip


def test_slurm_test(srun):
    options = dict(GPUS='4', CPUS_PER_TASK='2', MASTER_PORT='1234', SRUN_ARGS='--gres=none --exclusive')
    done = call(
        'slurm_test.sh', 'partition', 'job', 'config.py', 'weights.pth', '--out', 'a b.pkl', path=srun, **options
    )
    assert done.stdout.splitlines() == [
        '1234',
        '--partition=partition', '--job-name=job', '--gres=gpu:4', '--ntasks=4', '--ntasks-per-node=4',
        '--cpus-per-task=2', '--kill-on-bad-exit=1', '--gres=none', '--exclusive',
        'echo', '-u', f'{TOOLS}/test.py', '--launcher', 'slurm', 'config.py', 'weights.pth', '--out', 'a b.pkl',
    ]  # fmt: skip


def test_slurm_on_several_machines(srun):
    options = call('slurm_train.sh', 'p', 'j', 'config.py', path=srun, GPUS='16').stdout.splitlines()
    assert {'--ntasks=16', '--ntasks-per-node=8', '--gres=gpu:8'} < set(options)
    options = call('slurm_train.sh', 'p', 'j', 'config.py', path=srun, GPUS='16', GPUS_PER_NODE='4').stdout.splitlines()
    assert {'--ntasks=16', '--ntasks-per-node=4', '--gres=gpu:4'} < set(options)


@pytest.mark.parametrize(
    ('script', 'arguments', 'usage'),
    [
        ('dist_train.sh', ['config.py'], 'CONFIG PROCESSES [options'),
        ('dist_test.sh', ['config.py', 'weights.pth'], 'CONFIG CHECKPOINT PROCESSES [options'),
        ('slurm_train.sh', ['partition', 'job'], 'PARTITION JOB_NAME CONFIG [options'),
        ('slurm_test.sh', ['partition', 'job', 'config.py'], 'PARTITION JOB_NAME CONFIG CHECKPOINT [options'),
    ],
)
def test_usage(script, arguments, usage):
    done = call(script, *arguments)
    assert done.returncode == 2
    assert f'tools/{script} {usage}' in done.stderr
    assert 'shellcheck' not in done.stderr
