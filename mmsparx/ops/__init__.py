"""Operators: the selective scan and the cross-scan. Needs torch alone."""

from mmsparx.ops.cross_scan import cross_merge, cross_scan
from mmsparx.ops.selective_scan import available_backends, cross_selective_scan, selective_scan, state_dtype

__all__ = ['available_backends', 'cross_merge', 'cross_scan', 'cross_selective_scan', 'selective_scan', 'state_dtype']
