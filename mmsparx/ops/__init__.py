"""Operators: the selective scan, the cross-scan, the depthwise convolution and the norm of maps. Needs torch alone."""

from mmsparx.ops.cross_scan import cross_merge, cross_scan
from mmsparx.ops.depthwise_conv import depthwise_conv2d
from mmsparx.ops.map_norm import map_norm
from mmsparx.ops.selective_scan import available_backends, cross_selective_scan, selective_scan, state_dtype

__all__ = [
    'available_backends',
    'cross_merge',
    'cross_scan',
    'cross_selective_scan',
    'depthwise_conv2d',
    'map_norm',
    'selective_scan',
    'state_dtype',
]
