"""Fixtures shared by all tests."""

import functools
import os
from unittest import mock

import pytest
import torch


def pytest_addoption(parser):
    parser.addoption('--slow', action='store_true', help='run the tests that take minutes, too')


def pytest_runtest_setup(item):
    if item.get_closest_marker('gpu') and not torch.cuda.is_available():
        pytest.skip('needs a GPU')
    if item.get_closest_marker('slow') and not item.config.getoption('--slow'):
        pytest.skip('takes minutes; run it with --slow')


@pytest.fixture(autouse=True, scope='module')
def _environment():
    """Undo a module's changes of the environment: the tools switch safe loading on for good."""
    with mock.patch.dict(os.environ):
        yield


@pytest.fixture(autouse=True, scope='session')
def _quick_configs():
    """Leave the texts of configs unformatted, since yapf takes more than a second each, and read metafiles once."""
    try:
        from mmengine.config import config, utils
    except ModuleNotFoundError:
        yield
        return
    unformatted = mock.patch.object(config, 'FormatCode', lambda text, **_: (text, True))
    read_once = mock.patch.object(utils, '_get_cfg_metainfo', functools.cache(utils._get_cfg_metainfo))
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
