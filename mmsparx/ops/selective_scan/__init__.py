"""The selective scan of Mamba as a PyTorch custom operator.

`interface` says what it computes and checks arguments, `library` registers the operators (schema, fake, FLOPs,
derivatives), by way of `differentiable` for the derivatives that no kernel computes. `backends` orders the
implementations: `native` is the compiled one, `triton_backend` that by Triton (its kernels: `triton_kernels`, and for
maps `triton_reorder`), `reference` the pure-torch one, and `cross` makes the scan of a map of a plain one.
"""

from mmsparx.ops.selective_scan.backends import available_backends
from mmsparx.ops.selective_scan.interface import cross_selective_scan, selective_scan
from mmsparx.ops.selective_scan.reference import state_dtype

__all__ = ['available_backends', 'cross_selective_scan', 'selective_scan', 'state_dtype']
