"""Packages and modules of the formats."""

import importlib
from pathlib import Path
from types import ModuleType

ONNX, OPENVINO, PT2 = 'onnx', 'openvino', 'pt2'
FORMATS = (ONNX, OPENVINO, PT2)
SUFFIXES = {'.onnx': ONNX, '.xml': OPENVINO, '.pt2': PT2}
_TO_WRITE = {ONNX: ('onnx', 'onnxscript', 'onnxruntime'), OPENVINO: ('onnx', 'onnxscript', 'openvino'), PT2: ()}
_TO_RUN = {ONNX: 'onnxruntime', OPENVINO: 'openvino', PT2: 'torch'}


def need(name: str, purpose: str) -> ModuleType:
    """Import a package.

    Args:
        name: Name of the package.
        purpose: Purpose of the package, as the subject of the message.

    Raises:
        ModuleNotFoundError: It is not installed; the message names the extra.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise ModuleNotFoundError(
            f"{purpose} needs {name}, which is not installed: pip install 'mmsparx[export]'", name=name
        ) from error


def check_writer(kind: str) -> None:
    """Fail where a format cannot be written, and checked, here.

    Raises:
        ValueError: There is no such format.
        ModuleNotFoundError: A package is not installed.
    """
    if kind not in FORMATS:
        raise ValueError(f'export: unknown format {kind!r}; known ones: {", ".join(FORMATS)}')
    for name in _TO_WRITE[kind]:
        need(name, f'export to {kind}')


def check_runtime(kind: str) -> ModuleType:
    """The package that runs files of a format.

    Raises:
        ModuleNotFoundError: It is not installed.
    """
    return need(_TO_RUN[kind], f'a file of {kind}')


def format_of(file: str | Path) -> str:
    """The format of a file, by its suffix.

    Raises:
        ValueError: It has none of the known ones.
    """
    suffix = Path(file).suffix
    if suffix not in SUFFIXES:
        raise ValueError(f'{file}: expected a file that ends in {", ".join(SUFFIXES)}, got {suffix or "no suffix"}')
    return SUFFIXES[suffix]
