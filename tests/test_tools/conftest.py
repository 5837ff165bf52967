"""Fixtures that run the commands as a user would."""

from pathlib import Path

import pytest


@pytest.fixture
def coco(tmp_path) -> Path:
    """Four images to train on and two to validate on."""
    from helpers.tools import write_coco

    folder = tmp_path / 'coco'
    write_coco(folder, 'train2017', 4, seed=0)
    write_coco(folder, 'val2017', 2, seed=1)
    return folder


def of_kind(cls: type) -> list[type]:
    """A class and all classes derived from it so far."""
    return [cls, *(each for derived in cls.__subclasses__() for each in of_kind(derived))]


@pytest.fixture
def tool():
    """Run a command in this process: `tool('train', config, '--work-dir', ...)`."""
    from helpers.tools import run_command
    from mmengine.logging import MessageHub, MMLogger
    from mmengine.visualization import Visualizer

    def run(name: str, *arguments):
        # mmengine keeps these by name in a process; a run would write to the one before.
        for kept in (MessageHub, MMLogger, *of_kind(Visualizer)):
            kept._instance_dict.clear()
        return run_command(name, *arguments)

    return run


@pytest.fixture
def train(tool, coco, tmp_path):
    """Train a few iterations from scratch, with `overrides`' options; returns the work directory."""
    from helpers.tools import CONFIG, overrides

    def run(*arguments, config=CONFIG, **options) -> Path:
        work = tmp_path / 'work'
        options = ['--cfg-options', *overrides(coco, **options)]
        tool('train', config, '--work-dir', work, '--no-pretrained', *arguments, *options)
        return work

    return run
