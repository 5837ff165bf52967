"""The shell scripts: what they start, and what they say when they are called wrongly."""

import os
import subprocess
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[2] / 'tools'


def call(script, *arguments, **environment):
    """Run a script with `echo` for Python."""
    return subprocess.run(
        [TOOLS / script, *arguments],
        env={**os.environ, 'PYTHON': 'echo', **environment},
        capture_output=True,
        text=True,
    )


def test_dist_train():
    done = call(
        'dist_train.sh', 'config.py', '8', '--resume', PORT='1234', NNODES='2', NODE_RANK='1', MASTER_ADDR='host'
    )
    assert (
        done.stdout.split()
        == (
            '-m torch.distributed.run --nnodes=2 --node_rank=1 --master_addr=host --master_port=1234 '
            f'--nproc_per_node=8 {TOOLS}/train.py config.py --launcher pytorch --resume'
        ).split()
    )


def test_dist_test():
    done = call('dist_test.sh', 'config.py', 'weights.pth', '4', '--out', 'out.pkl')
    assert (
        done.stdout.split()
        == (
            '-m torch.distributed.run --nnodes=1 --node_rank=0 --master_addr=127.0.0.1 --master_port=29500 '
            f'--nproc_per_node=4 {TOOLS}/test.py config.py weights.pth --launcher pytorch --out out.pkl'
        ).split()
    )


@pytest.mark.parametrize(('script', 'arguments'), [('dist_train.sh', ['config.py']), ('dist_test.sh', ['a', 'b'])])
def test_usage(script, arguments):
    done = call(script, *arguments)
    assert done.returncode == 2
    assert f'tools/{script} CONFIG' in done.stderr
