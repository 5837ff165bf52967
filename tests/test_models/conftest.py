"""Fixtures of the tests that load weights."""

import pytest
import torch


@pytest.fixture
def save(tmp_path):
    """Saves anything and returns the path as mmengine wants it."""

    def save(content, name='weights.pth'):
        torch.save(content, tmp_path / name)
        return str(tmp_path / name)

    return save
