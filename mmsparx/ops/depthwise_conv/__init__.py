"""The depthwise convolution with bias, residual and activation as one PyTorch custom operator.

`interface` says what it computes and which cases the operator covers, `library` registers it (schema, fake, FLOPs,
derivatives). `backends` orders the implementations: the compiled one, `triton_backend` for GPUs (its kernels:
`triton_kernels`), and `reference`, in torch.
"""

from mmsparx.ops.depthwise_conv.backends import available_backends
from mmsparx.ops.depthwise_conv.interface import depthwise_conv2d

__all__ = ['available_backends', 'depthwise_conv2d']
