"""Fixtures of the commands' tests."""

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def images(tmp_path):
    """A folder of five images of different sizes and a file that is not an image."""
    folder = tmp_path / 'images'
    (folder / 'deep').mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i, size in enumerate([(64, 48), (48, 64), (80, 80), (100, 50), (64, 64)]):
        values = rng.integers(0, 255, (6, 6, 3), dtype=np.uint8)
        Image.fromarray(values).resize(size).save(folder / ('deep' if i == 4 else '.') / f'{i}.png')
    (folder / 'broken.jpg').write_bytes(b'no image')
    return folder
