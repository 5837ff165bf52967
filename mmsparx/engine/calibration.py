"""Exported networks in 8 bits, calibrated on images of a folder."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mmsparx.engine.exported import prepare
from mmsparx.engine.inference import image_files, read_image
from mmsparx.export.description import read_description
from mmsparx.export.int8 import quantise

IMAGES = 64


def calibration_images(folder: str) -> list[np.ndarray]:
    """Up to `IMAGES` images of a folder, spread over all, (H, W, 3), BGR; those that cannot be read are passed over.

    Raises:
        FileNotFoundError: There is no such folder, or no image in it.
        ValueError: None of them can be read.
    """
    if not Path(folder).is_dir():
        raise FileNotFoundError(f'--int8: no folder {folder}')
    files = image_files(Path(folder))
    chosen = sorted(set(np.linspace(0, len(files) - 1, IMAGES).astype(int).tolist()))
    images = [image for i in chosen if (image := read_image(files[i])) is not None]
    if not images:
        raise ValueError(f'--int8: none of {len(chosen)} images in {folder} can be read, as {files[chosen[0]]}')
    return images


def write_int8(file: Path, images: Sequence[np.ndarray]) -> Path:
    """Write an exported file of ONNX once more, with convolutions and products in 8 bits.

    Args:
        file: File that `mmsparx export` has written, with its JSON file beside it.
        images: Images that give the ranges of activations, (H, W, 3), BGR.

    Returns:
        The file, `NAME.int8.onnx`, whose JSON file is beside it as well.
    """
    about = read_description(file)
    out = file.with_suffix('.int8.onnx')
    quantise(file, out, (prepare(image, about) for image in images))
    out.with_suffix('.json').write_bytes(file.with_suffix('.json').read_bytes())
    return out
