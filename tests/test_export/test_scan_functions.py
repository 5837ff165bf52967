"""The scans as ONNX functions of standard operators, against the package's operators."""

import numpy as np
import pytest
import torch

pytest.importorskip('onnx', reason='the functions are of ONNX')
pytest.importorskip('onnxruntime', reason='it runs them')
import onnx
import onnxruntime
from onnx import TensorProto, helper

from mmsparx.export import scan_functions
from mmsparx.ops import cross_scan, cross_selective_scan, selective_scan

# -log(sigmoid(-x)) rounds 1 + exp(x), which causes an error of 6e-8 in steps that start at some 1e-2 here.
TOLERANCE = 3e-5
SIZES = [(1, 1), (1, 5), (3, 5), (7, 4)]


def run(function, inputs):
    """The function as the only node of a model, in onnxruntime."""
    graph = helper.make_graph(
        [helper.make_node(function.name, list(function.input), ['y'], domain=scan_functions.DOMAIN)],
        'one node',
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * x.dim()) for name, x in inputs.items()],
        [helper.make_tensor_value_info('y', TensorProto.FLOAT, [None] * next(iter(inputs.values())).dim())],
    )
    imports = [helper.make_opsetid('', scan_functions.OPSET), helper.make_opsetid(scan_functions.DOMAIN, 1)]
    model = helper.make_model(graph, opset_imports=imports, functions=[function], ir_version=8)
    onnx.checker.check_model(model)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=['CPUExecutionProvider'])
    return session.run(None, {name: x.numpy() for name, x in inputs.items()})[0]


def error(found, expected):
    return np.linalg.norm(found - expected.numpy()) / expected.norm().item()


@pytest.mark.parametrize(('states', 'one_state'), [(1, True), (1, False), (3, False)])
@pytest.mark.parametrize(('height', 'width'), SIZES)
def test_maps(states, one_state, height, width):
    channels, rank = 5, 2
    inputs = {
        'x': torch.randn(2, channels, height, width),
        'parts': torch.randn(2, 4 * (rank + 2 * states), height, width),
        'weight': torch.randn(4, channels, rank),
        'bias': torch.randn(4, channels),
        'A': -torch.rand(4 * channels, states) * 3,
        'D': torch.randn(4 * channels),
    }
    exact = {name: x.double() for name, x in inputs.items()}
    step, B, C = cross_scan(exact['parts'].unflatten(1, (4, -1))).split([rank, states, states], 2)
    expected = cross_selective_scan(
        exact['x'], step, exact['weight'].flatten(0, 1), exact['A'], B, C, exact['D'], exact['bias'].flatten(), True
    )
    assert error(run(scan_functions.cross_scan(one_state), inputs), expected) < TOLERANCE


@pytest.mark.parametrize(('states', 'one_state'), [(1, True), (3, False)])
@pytest.mark.parametrize('length', [1, 63, 64, 130])
def test_sequences(states, one_state, length):
    inputs = {
        'u': torch.randn(2, 5, length),
        'delta': torch.randn(2, 5, length),
        'A': -torch.rand(5, states) * 3,
        'B': torch.randn(2, 1, states, length),
        'C': torch.randn(2, 1, states, length),
        'D': torch.randn(5),
        'bias': torch.randn(5),
    }
    u, delta, A, B, C, D, bias = (x.double() for x in inputs.values())
    expected = selective_scan(u, delta, A, B, C, D, delta_bias=bias, delta_softplus=True)
    assert error(run(scan_functions.sequence_scan(one_state), inputs), expected) < TOLERANCE
