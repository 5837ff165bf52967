"""Precisions in which networks are timed."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

# The type of autocast, and whether float32 products may be taken in TF32, by name.
PRECISIONS = {
    'fp32': (None, False),
    'tf32': (None, True),
    'bf16': (torch.bfloat16, False),
    'fp16': (torch.float16, False),
}


@contextmanager
def products_in_tf32(allowed: bool) -> Iterator[None]:
    """Whether float32 convolutions and products on a GPU may be taken in TF32; torch allows convolutions."""
    settings = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [setting.allow_tf32 for setting in settings]
    for setting in settings:
        setting.allow_tf32 = allowed
    try:
        yield
    finally:
        for setting, value in zip(settings, before, strict=True):
            setting.allow_tf32 = value
