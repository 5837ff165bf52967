"""ONNX files in 8 bits, of a graph with one convolution."""

import numpy as np
import pytest

pytest.importorskip('mmengine', reason='the networks need it')
pytest.importorskip('onnxruntime', reason='it writes and runs the files')
import onnx
from onnx import TensorProto, helper, numpy_helper

from mmsparx.export import onnx_format, open_file
from mmsparx.export.int8 import quantise


@pytest.fixture
def model():
    """A convolution of 3 channels to 16, whose weights are exact in 16 bits and have another scale in each channel."""
    weight = np.random.default_rng(0).standard_normal((16, 3, 3, 3)) * np.logspace(0, -3, 16)[:, None, None, None]
    weight = weight.astype(np.float16).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node('Conv', ['image', 'weight'], ['out'])],
        'graph',
        [helper.make_tensor_value_info('image', TensorProto.FLOAT, (1, 3, 8, 8))],
        [helper.make_tensor_value_info('out', TensorProto.FLOAT, (1, 16, 6, 6))],
        [numpy_helper.from_array(weight, 'weight')],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid('', 18)], ir_version=8)


def test_weights_in_16_bits_and_back(model):
    half = onnx_format.with_half_weights(onnx.ModelProto.FromString(model.SerializeToString()))
    assert [node.op_type for node in half.graph.node] == ['Cast', 'Conv']
    assert half.graph.initializer[0].data_type == TensorProto.FLOAT16
    assert onnx_format.with_full_weights(half) == model


@pytest.mark.parametrize('half', [False, True])
def test_weights_are_in_8_bits_with_a_scale_for_each_channel(half, model, tmp_path):
    image = np.random.default_rng(1).standard_normal((1, 3, 8, 8), dtype=np.float32)
    onnx.save(model, tmp_path / 'n.onnx')
    (expected,) = open_file(tmp_path / 'n.onnx', library=False)(image)
    if half:
        onnx.save(onnx_format.with_half_weights(model), tmp_path / 'n.onnx')
    quantise(tmp_path / 'n.onnx', tmp_path / 'n.int8.onnx', [image])
    made = onnx.load(tmp_path / 'n.int8.onnx')
    weights = {tensor.name: tensor for tensor in made.graph.initializer if tensor.name.startswith('weight')}
    (quantised,) = (name for name, tensor in weights.items() if np.prod(tensor.dims) == 16 * 27)
    assert weights[quantised].data_type == TensorProto.INT8
    (node,) = (node for node in made.graph.node if quantised in node.input)
    assert list(weights[node.input[1]].dims) == [16]
    (found,) = open_file(tmp_path / 'n.int8.onnx', library=False)(image)
    assert 0 < np.abs(found - expected).max() < 0.02 * np.abs(expected).max()
