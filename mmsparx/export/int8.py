"""Files of ONNX whose convolutions and products are in 8 bits."""

import os
from collections.abc import Iterable

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from mmsparx.export import onnx_format

KINDS = ('Conv', 'MatMul', 'Gemm')


class _Images(CalibrationDataReader):
    def __init__(self, images: Iterable[np.ndarray]):
        self.images = iter(images)

    def get_next(self) -> dict[str, np.ndarray] | None:
        image = next(self.images, None)
        return None if image is None else {onnx_format.INPUT: image}


def quantise(file: str | os.PathLike, out: str | os.PathLike, images: Iterable[np.ndarray]) -> None:
    """Write a file of ONNX with its convolutions and products in 8 bits; scans and norms stay in 32.

    Args:
        file: File that `mmsparx.export.export` has written, with weights in 32 or in 16 bits.
        out: File to write.
        images: Images by which the ranges of activations are found, (1, 3, H, W) in float32, prepared.
    """
    quantize_static(
        onnx_format.with_full_weights(onnx.load(file)),
        out,
        _Images(images),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=list(KINDS),
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
