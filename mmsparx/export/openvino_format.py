"""Files of OpenVINO."""

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import onnx
import openvino
from onnx import ModelProto


def write(model: ModelProto, file: str | os.PathLike, description: Mapping) -> None:
    """Write a model of standard operators of ONNX as OpenVINO's .xml and .bin, in 32 bits.

    Args:
        model: Model without functions, which OpenVINO does not read.
        file: File to write, of the suffix .xml.
        description: Entries of the file's metadata, which is its runtime information `mmsparx`.
    """
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, 'model.onnx')
        onnx.save(model, source)
        converted = openvino.convert_model(source)
        for key, value in description.items():
            converted.set_rt_info(json.dumps(value), ['mmsparx', key])
        openvino.save_model(converted, file, compress_to_fp16=False)
