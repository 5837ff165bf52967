"""Exported networks in 8 bits, calibrated on images of a folder."""

from pathlib import Path

import numpy as np

from mmsparx.engine.exported import prepare
from mmsparx.engine.inference import open_source
from mmsparx.export.description import read_description
from mmsparx.export.int8 import quantise

IMAGES = 64


def write_int8(file: Path, folder: str) -> Path:
    """Write an exported file of ONNX once more, with convolutions and products in 8 bits.

    Args:
        file: File that `mmsparx export` has written, with its JSON file beside it.
        folder: Folder of images; up to `IMAGES` of them, spread over all, give the ranges of activations.

    Returns:
        The file, `NAME.int8.onnx`, whose JSON file is beside it as well.

    Raises:
        FileNotFoundError: There is no such folder, or no image in it.
    """
    if not Path(folder).is_dir():
        raise FileNotFoundError(f'--int8: no folder {folder}')
    about = read_description(file)
    source = open_source(folder)
    chosen = set(np.linspace(0, source.count - 1, IMAGES).astype(int).tolist())
    images = (image for i, (_, image) in enumerate(source.images) if i in chosen and image is not None)
    out = file.with_suffix('.int8.onnx')
    quantise(file, out, (prepare(image, about) for image in images))
    out.with_suffix('.json').write_bytes(file.with_suffix('.json').read_bytes())
    return out
