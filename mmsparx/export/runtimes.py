"""Exported files in their runtimes, on a CPU."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from mmsparx.export.library import ort_library
from mmsparx.export.requirements import ONNX, OPENVINO, check_runtime, format_of
from mmsparx.ops import native

ONNXRUNTIME = 'onnxruntime'
WITH_LIBRARY = f'{ONNXRUNTIME} with mmsparx'
_Call = Callable[[np.ndarray], list[np.ndarray]]


@dataclass(frozen=True)
class Run:
    """An exported file in its runtime: a function of an image (B, 3, H, W), float32, that returns the outputs in order.

    Attributes:
        runtime: Name of the runtime; of onnxruntime, also whether it runs scans by `ort_library`.
    """

    runtime: str
    _call: _Call

    def __call__(self, image: np.ndarray) -> list[np.ndarray]:
        return self._call(image)


def open_file(file: str | os.PathLike, *, threads: int | None = None, library: bool | None = None) -> Run:
    """Load an exported file.

    A file is a program: run those alone whose source you trust.

    Args:
        file: File that ends in .onnx, .xml (OpenVINO) or .pt2.
        threads: Number of threads; the runtime's own choice by default. Of .pt2 it is torch's.
        library: Whether onnxruntime runs scans by `ort_library`, not by the standard operators in the file. By default
            it does where the library was compiled.

    Returns:
        Function of an image.

    Raises:
        FileNotFoundError: There is no such file, or no library where one is asked for.
        ValueError: The suffix is unknown.
        ModuleNotFoundError: The runtime is not installed.
    """
    file = Path(file)
    kind = format_of(file)
    if not file.is_file():
        raise FileNotFoundError(f'no file {file}')
    check_runtime(kind)
    if kind == ONNX:
        library = native.without_ort() is None if library is None else library
        return _onnxruntime(file, threads, library)
    return _openvino(file, threads) if kind == OPENVINO else _pt2(file)


def _onnxruntime(file: Path, threads: int | None, library: bool) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    if threads is not None:
        options.intra_op_num_threads = threads
    if library:
        options.register_custom_ops_library(str(ort_library()))
    session = onnxruntime.InferenceSession(str(file), options, providers=['CPUExecutionProvider'])
    (name,) = (each.name for each in session.get_inputs())
    return Run(WITH_LIBRARY if library else ONNXRUNTIME, lambda image: session.run(None, {name: image}))


def _openvino(file: Path, threads: int | None) -> Run:
    import openvino

    core = openvino.Core()
    settings = {'INFERENCE_PRECISION_HINT': 'f32'}
    if threads is not None:
        settings['INFERENCE_NUM_THREADS'] = threads
    compiled = core.compile_model(str(file), 'CPU', settings)

    def run(image: np.ndarray) -> list[np.ndarray]:
        results = compiled(image)
        return [results[i].copy() for i in range(len(compiled.outputs))]

    return Run('OpenVINO', run)


def _pt2(file: Path) -> Run:
    from mmsparx.export import pt2_format

    module = pt2_format.load(file)

    def run(image: np.ndarray) -> list[np.ndarray]:
        with torch.inference_mode():
            return [output.numpy() for output in module(torch.from_numpy(image))]

    return Run('torch.export', run)
