"""Operators: the selective scan, the cross-scan and the depthwise convolution. Needs torch alone."""

from mmsparx.ops.cross_scan import cross_merge, cross_scan
from mmsparx.ops.depthwise_conv import depthwise_conv2d
from mmsparx.ops.selective_scan import available_backends, cross_selective_scan, selective_scan, state_dtype

__all__ = [
    'available_backends',
    'cross_merge',
    'cross_scan',
    'cross_selective_scan',
    'depthwise_conv2d',
    'selective_scan',
    'state_dtype',
]
