"""Fixtures shared by all tests."""

import pytest
import torch


@pytest.fixture(autouse=True)
def _reproducible():
    """One thread and one seed, whatever ran before."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
