"""The shell scripts: the commands that they start, and messages on wrong calls; options of all commands."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[2] / 'tools'
# Variables that would change the commands if they were set where the tests run.
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


@pytest.fixture
def call(tmp_path):
    """Runs a script with a Python and an srun that print MASTER_PORT and their arguments, each on a line.

    -> exit status, these lines, errors
    """
    for name in ('python', 'srun'):
        (tmp_path / name).write_text('#!/usr/bin/env bash\nprintf "%s\\n" "$MASTER_PORT" "$@"\n')
        (tmp_path / name).chmod(0o755)

    def call(script, *arguments, **environment):
        inherited = {name: value for name, value in os.environ.items() if name not in VARIABLES}
        paths = {'PATH': f'{tmp_path}:{os.environ["PATH"]}', 'PYTHON': 'python'}
        done = subprocess.run(
            [TOOLS / script, *arguments], env={**inherited, **paths, **environment}, capture_output=True, text=True
        )
        return done.returncode, done.stdout.splitlines(), done.stderr

    return call


@pytest.mark.parametrize('tool', ['train', 'test'])
@pytest.mark.parametrize(
    ('launcher', 'before', 'after'), [('pytorch', [], ['8']), ('slurm', ['a partition', 'a job'], [])]
)
def test_arguments_reach_the_tool(tool, launcher, before, after, call):
    files = ['config.py'] if tool == 'train' else ['config.py', 'weights.pth']
    script = f'{"dist" if launcher == "pytorch" else "slurm"}_{tool}.sh'
    status, lines, _ = call(script, *before, *files, *after, '--work-dir', 'a b')
    assert status == 0
    started = lines.index(f'{TOOLS}/{tool}.py')
    assert lines[started + 1 :] == ['--launcher', launcher, *files, '--work-dir', 'a b']


def test_several_machines_need_to_know_each_other(call):
    nodes = dict(NNODES='2', NODE_RANK='1', MASTER_ADDR='host', PORT='1234')
    _, lines, _ = call('dist_train.sh', 'config.py', '8', **nodes)
    assert {'--nnodes=2', '--node-rank=1', '--master-addr=host', '--master-port=1234'} < set(lines)
    for name in ('NODE_RANK', 'MASTER_ADDR'):
        status, _, errors = call('dist_train.sh', 'config.py', '8', **{**nodes, name: ''})
        assert status
        assert f'{name}: has to be set' in errors


@pytest.mark.parametrize(
    ('environment', 'expected'),
    [
        ({}, ['--ntasks=8', '--ntasks-per-node=8', '--gres=gpu:8']),
        ({'GPUS': '4'}, ['--ntasks=4', '--ntasks-per-node=4', '--gres=gpu:4']),
        ({'GPUS': '16'}, ['--ntasks=16', '--ntasks-per-node=8', '--gres=gpu:8']),
        ({'GPUS': '16', 'GPUS_PER_NODE': '4'}, ['--ntasks=16', '--ntasks-per-node=4', '--gres=gpu:4']),
        ({'SRUN_ARGS': '--gres=none --exclusive'}, ['--gres=none', '--exclusive']),
    ],
    ids=str,
)
def test_resources_of_slurm(environment, expected, call):
    _, lines, _ = call('slurm_train.sh', 'partition', 'job', 'config.py', **environment)
    assert set(expected) < set(lines)


def test_the_port_of_a_job(call):
    """The default port is random, so that two jobs on a machine do not collide."""
    job = ('slurm_train.sh', 'partition', 'job', 'config.py')
    assert 10000 <= int(call(*job)[1][0]) < 30000
    assert call(*job, MASTER_PORT='1234')[1][0] == '1234'


@pytest.mark.parametrize(
    ('script', 'arguments', 'usage'),
    [
        ('dist_train.sh', ['config.py'], 'CONFIG PROCESSES [options'),
        ('dist_test.sh', ['config.py', 'weights.pth'], 'CONFIG CHECKPOINT PROCESSES [options'),
        ('slurm_train.sh', ['partition', 'job'], 'PARTITION JOB_NAME CONFIG [options'),
        ('slurm_test.sh', ['partition', 'job', 'config.py'], 'PARTITION JOB_NAME CONFIG CHECKPOINT [options'),
    ],
)
def test_usage(script, arguments, usage, call):
    status, _, errors = call(script, *arguments)
    assert status == 2
    assert f'tools/{script} {usage}' in errors
    assert 'shellcheck' not in errors


def parsers():
    """Calls that make a parser of options, each as file, line and keywords."""
    root = TOOLS.parent
    for folder in ('tools', 'demo', 'benchmarks', 'mmsparx'):
        for path in sorted((root / folder).rglob('*.py')):
            text = path.read_text()
            if 'ArgumentParser(' not in text and 'add_parser(' not in text:
                continue
            for node in ast.walk(ast.parse(text)):
                name = getattr(getattr(node, 'func', None), 'attr', None)
                if isinstance(node, ast.Call) and name in ('ArgumentParser', 'add_parser'):
                    yield pytest.param(node, id=f'{path.relative_to(root)}:{node.lineno}')


@pytest.mark.parametrize('call', [*parsers()])
def test_no_command_takes_abbreviated_options(call):
    """`--no-pretrain` would be taken for --no-pretrained, and mean another option once there is a second one."""
    keywords = {keyword.arg: keyword.value for keyword in call.keywords}
    assert ast.literal_eval(keywords['allow_abbrev']) is False


@pytest.mark.parametrize(
    ('script', 'arguments'),
    [
        ('tools/train.py', ['config.py', '--no-pretrain']),
        ('tools/test.py', ['config.py', 'weights.pth', '--show', 'x']),
        ('demo/infer.py', ['a.png', 'config.py', 'weights.pth', '--out', 'x']),
        ('-m mmsparx', ['doctor', '--js']),
    ],
)
def test_an_abbreviated_option_is_refused(script, arguments):
    done = subprocess.run(
        [sys.executable, *script.split(), *arguments], cwd=TOOLS.parent, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert (
        'unrecognized arguments: ' + ' '.join(arguments[-1 if arguments[-1].startswith('-') else -2 :]) in done.stderr
    )
