"""The library of the package's scans for onnxruntime, which is compiled together with the operators."""

from pathlib import Path

import mmsparx
from mmsparx.ops import native

_PACKAGE = Path(mmsparx.__file__).parent


def ort_library() -> Path:
    """The library that runs the scans of exported files in onnxruntime, for `register_custom_ops_library`.

    It needs onnxruntime 1.17 or later, and neither Python nor torch. It uses the session's threads, and the best
    instruction set of the processor unless the environment variable MMSPARX_CPU_INSTRUCTION_SET names another.

    Raises:
        FileNotFoundError: It was not compiled; the message says why, and how it is.
    """
    missing = native.without_ort(_PACKAGE)
    if missing:
        raise FileNotFoundError(f'no library of the scans for onnxruntime: {missing}')
    return _PACKAGE / native.ORT_LIBRARY
