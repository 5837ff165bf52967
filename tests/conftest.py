"""Fixtures shared by all tests."""

import functools
import gc
import os
from unittest import mock

import pytest
import torch


def pytest_addoption(parser):
    parser.addoption('--slow', action='store_true', help='run the tests that take minutes, too')


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """Modules are imported and tests made without collections of garbage, as none is made."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


def pytest_runtest_setup(item):
    if item.get_closest_marker('gpu') and not torch.cuda.is_available():
        pytest.skip('needs a GPU')
    if item.get_closest_marker('slow') and not item.config.getoption('--slow'):
        pytest.skip('takes minutes; run it with --slow')


@pytest.fixture(autouse=True, scope='module')
def _environment():
    """What a module does to the environment ends with it: the tools switch safe loading on for good.

    Processes that its tests start have one thread, as this one has.
    """
    with mock.patch.dict(os.environ):
        os.environ.setdefault('OMP_NUM_THREADS', '1')
        yield


@pytest.fixture(autouse=True, scope='module')
def _little_to_collect():
    """Garbage collections pass over the tests themselves and all imported so far, which take most of a second.

    mmengine collects for every dataset.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope='session')
def _quick_configs():
    """The texts of configs not formatted, which takes yapf more than a second each, and metafiles read once.

    A library's metafiles are read for each base that a config names as in `mmdet::_base_/default_runtime.py`.
    """
    try:
        from mmengine.config import config, utils
    except ModuleNotFoundError:
        yield
        return
    unformatted = mock.patch.object(config, 'FormatCode', lambda text, **_: (text, True))
    read_once = mock.patch.object(utils, 'load', functools.cache(utils.load))
    with unformatted, read_once:
        yield


@pytest.fixture(autouse=True)
def _reproducible():
    """Set one thread and one seed, whatever ran before."""
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture
def save(tmp_path):
    """Saves anything and returns the path as mmengine wants it."""

    def save(content, name='weights.pth'):
        torch.save(content, tmp_path / name)
        return str(tmp_path / name)

    return save
