"""Counters over traced graphs, given the operators' formulas."""

import pytest
import torch
from helpers.networks import NETWORKS, TWO_STAGES
from mmengine.analysis import FlopAnalyzer

from mmsparx.analysis import complexity, jit_handles
from mmsparx.models import SparXNet


@pytest.mark.parametrize('name', ['SS2D', 'SSM', 'BiSSM'])
def test_mmengines_analyzer(name):
    """It is a copy of fvcore's `FlopCountAnalysis`, which takes the handles in the same way."""
    model = SparXNet(TWO_STAGES, out_indices=(1,), **NETWORKS[name]).eval()
    x = torch.randn(1, 3, 40, 56)
    counter = FlopAnalyzer(model, x).unsupported_ops_warnings(False)
    own = {op: macs for op, macs in complexity(model, x).macs_by_op.items() if 'mmsparx' in op and 'gate' not in op}
    norms = complexity(model, x, norms=True).macs_by_op.get('mmsparx.map_norm')
    own |= {} if norms is None else {'mmsparx.map_norm': norms}
    before = counter.total()
    assert {op.replace('::', '.') for op in counter.unsupported_ops() if 'mmsparx' in op} == own.keys()
    counter = FlopAnalyzer(model, x).unsupported_ops_warnings(False).set_op_handle(**jit_handles())
    assert counter.total() - before == sum(own.values()) > 0
    assert not any('mmsparx' in op for op in counter.unsupported_ops())
