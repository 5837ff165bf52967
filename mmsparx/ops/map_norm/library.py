"""The operator as torch sees it: schema, kernels, fake and derivatives.

As for the scan, the schemas are the contract: graphs that were exported with one set of backends run with any other.
Like torch's norms it has no FLOP formula; see `mmsparx.analysis` for a count with norms.
"""

import torch

from mmsparx.ops import backends, derivatives
from mmsparx.ops.map_norm import reference
from mmsparx.ops.map_norm.backends import choose
from mmsparx.ops.selective_scan.reference import state_dtype

FORWARD = 'mmsparx::map_norm'
BACKWARD = 'mmsparx::map_norm_bwd'

_TAGS = (torch.Tag.pt2_compliant_tag,)
_INPUTS = 'Tensor x, Tensor weight, Tensor bias'
_OPTIONS = 'float eps, str backend'

torch.library.define(FORWARD, f'({_INPUTS}, {_OPTIONS}) -> (Tensor out, Tensor mean, Tensor rstd)', tags=_TAGS)
torch.library.define(
    BACKWARD,
    f'(Tensor grad, {_INPUTS}, Tensor mean, Tensor rstd, {_OPTIONS}) -> (Tensor, Tensor, Tensor)',
    tags=_TAGS,
)


backends.implement(FORWARD, BACKWARD, choose)


@torch.library.register_fake(FORWARD)
def _forward_fake(x, weight, bias, eps, backend):
    mean = x.new_empty(x.shape[:1], dtype=state_dtype(x))
    return x.new_empty(x.shape), mean, mean.new_empty(mean.shape)


@torch.library.register_fake(BACKWARD)
def _backward_fake(grad, x, weight, bias, mean, rstd, eps, backend):
    return tuple(tensor.new_empty(tensor.shape) for tensor in (x, weight, bias))


derivatives.register(
    FORWARD, BACKWARD, reference.differentiable_forward, reference.differentiable_backward, parameters={1, 2}
)
