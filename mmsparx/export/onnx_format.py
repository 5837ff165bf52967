"""Files of ONNX."""

import json
import os
import warnings
from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import onnx.inliner
import torch
from onnx import ModelProto, TensorProto, helper, numpy_helper
from torch import nn
from torch.export import ExportedProgram

from mmsparx.export import scan_functions, translations
from mmsparx.layers.mixers import SS2D, SSM

INPUT = 'image'
_AXES = {0: 'batch', 2: 'height', 3: 'width'}
_VERSION = 8  # of the format: the first with functions and opset 18, which more runtimes read than later ones
# Weights of fewer numbers stay in 32 bits.
_LEAST_HALF = 64
_HALF = '.half'  # at the end of the names of those in 16 bits


def to_onnx(
    program: ExportedProgram, module: nn.Module, outputs: Sequence[str], open_axes: Sequence[int]
) -> ModelProto:
    """A graph as a model of ONNX, with the functions of the scans in it.

    Args:
        program: Graph with scan nodes.
        module: Module that it was traced from.
        outputs: Names of the outputs.
        open_axes: Axes of the image whose sizes are open.
    """
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        made = torch.onnx.export(
            program,
            (),
            dynamo=True,
            opset_version=scan_functions.OPSET,
            input_names=[INPUT],
            output_names=list(outputs),
            custom_translation_table=translations.table(),
            verbose=False,
        )
    model = made.model_proto
    model.ir_version = _VERSION
    _add_functions(model, module)
    for axis in open_axes:
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = _AXES[axis]
    _drop_notes(model)
    onnx.checker.check_model(model)
    return model


def _add_functions(model: ModelProto, module: nn.Module) -> None:
    kinds = {scan_functions.MAPS: SS2D, scan_functions.SEQUENCES: SSM}
    make = {scan_functions.MAPS: scan_functions.cross_scan, scan_functions.SEQUENCES: scan_functions.sequence_scan}
    used = {node.op_type for node in model.graph.node if node.domain == scan_functions.DOMAIN}
    for name in sorted(used):
        states = {m.A_log.shape[1] for m in module.modules() if isinstance(m, kinds[name])}
        model.functions.append(make[name](states == {1}))
    if used and all(opset.domain != scan_functions.DOMAIN for opset in model.opset_import):
        model.opset_import.append(helper.make_opsetid(scan_functions.DOMAIN, scan_functions.VERSION))


def _drop_notes(model: ModelProto) -> None:
    """Remove the exporter's notes at nodes and values: lines and paths of the source."""
    for part in (*model.graph.node, *model.graph.input, *model.graph.output, *model.graph.value_info,
                 *model.graph.initializer):  # fmt: skip
        part.doc_string = ''
        if hasattr(part, 'metadata_props'):
            del part.metadata_props[:]
    model.graph.doc_string = model.doc_string = ''


def inlined(model: ModelProto) -> ModelProto:
    """The model with standard operators alone, for runtimes that know no functions."""
    return onnx.inliner.inline_local_functions(model)


def with_half_weights(model: ModelProto) -> ModelProto:
    """The model with the weights that fit 16 bits in these; a cast brings them back to 32, in which all is computed."""
    casts = []
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if tensor.data_type != TensorProto.FLOAT or values.size < _LEAST_HALF:
            continue
        name, half = tensor.name, values.astype('float16')
        if (half != values).any():  # as decays, which are an exponential
            continue
        tensor.CopyFrom(numpy_helper.from_array(half, f'{name}{_HALF}'))
        casts.append(helper.make_node('Cast', [f'{name}{_HALF}'], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def with_full_weights(model: ModelProto) -> ModelProto:
    """The model of `with_half_weights` with its weights in 32 bits again, as quantisation looks for them."""
    halves = {tensor.name: tensor for tensor in model.graph.initializer if tensor.name.endswith(_HALF)}
    nodes = []
    for node in model.graph.node:
        if node.op_type == 'Cast' and node.input[0] in halves:
            tensor = halves[node.input[0]]
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype('float32'), node.output[0]))
        else:
            nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def set_values(model: ModelProto, values: Mapping[str, np.ndarray]) -> None:
    """Give initializers, which are named as in the module, other values."""
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    for name, value in values.items():
        tensors[name].CopyFrom(numpy_helper.from_array(value, name))


def write(model: ModelProto, file: str | os.PathLike, description: Mapping) -> None:
    """Write a model, with its description as metadata."""
    helper.set_model_props(model, {key: json.dumps(value) for key, value in description.items()})
    onnx.save(model, file)
