"""A kernel that shows whether Triton's interpreter works. Imports triton: `triton_runtime` does so late."""

import triton
import triton.language as tl


@triton.jit
def add_up(x, out, length, BLOCK: tl.constexpr):
    """out (1,): the sum of x (length,)."""
    total = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, length, BLOCK):
        i = start + tl.arange(0, BLOCK)
        total += tl.load(x + i, mask=i < length, other=0.0)
    tl.store(out, tl.sum(total, 0))
