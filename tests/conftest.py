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
    """Collect the tests with the garbage collector switched off, since importing modules leaves no garbage."""
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
    """Undo a module's changes of the environment: the tools switch safe loading on for good.

    Processes that the tests start use one thread, as this process does.
    """
    with mock.patch.dict(os.environ):
        os.environ.setdefault('OMP_NUM_THREADS', '1')
        yield


@pytest.fixture(autouse=True, scope='module')
def _little_to_collect():
    """Exclude the tests and everything imported so far from garbage collections, which take most of a second otherwise.

    mmengine runs one for every dataset.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope='session')
def _quick_configs():
    """Leave the texts of configs unformatted, since yapf takes more than a second each, and read metafiles once.

    mmengine reads all metafiles of a library for each base of the form `mmdet::_base_/default_runtime.py`.
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
