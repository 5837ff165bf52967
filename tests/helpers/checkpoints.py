"""Comparing runs by what they logged and saved."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from mmsparx.weights import read_checkpoint


def losses(work: Path) -> list[tuple[int, float]]:
    """(iteration, loss) of all runs in a work directory; equal pairs occur once."""
    lines = [
        json.loads(line) for path in work.glob('*/vis_data/scalars.json') for line in path.read_text().splitlines()
    ]
    return sorted({(line['step'], line['loss']) for line in lines if 'loss' in line})


def assert_equal_runs(train: Callable[..., None], folder: Path, by: Any) -> None:
    """Train, and train again from a checkpoint of the first run.

    Args:
        train: Function of a work directory and further arguments of tools/train.py.
        folder: Folder for both work directories.
        by: Names of the checkpoints that the second run starts from (`resumed`) and both end with (`last`).
    """
    whole, resumed = folder / 'whole', folder / 'resumed'
    train(whole)
    resumed.mkdir()
    shutil.copy(whole / by.resumed, resumed)
    train(resumed, '--resume')
    logged, again = losses(whole), losses(resumed)
    assert 0 < len(again) < len(logged)
    assert again == logged[-len(again) :]
    one, other = (read_checkpoint(work / by.last) for work in (whole, resumed))
    for part in ('state_dict', 'optimizer', 'param_schedulers'):
        assert_equal(one[part], other[part], part)
    assert one.get('drawn_sizes') == other.get('drawn_sizes')


def assert_equal(a: object, b: object, where: str) -> None:
    """Assert that two nested values are the same, tensors bit for bit."""
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_equal(a[key], b[key], f'{where}.{key}')
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), where
        for i, pair in enumerate(zip(a, b, strict=True)):
            assert_equal(*pair, f'{where}.{i}')
    else:
        assert a == b, where
