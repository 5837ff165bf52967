"""Models as files for other runtimes: ONNX, OpenVINO and torch.export's .pt2. Needs mmengine and the extra `export`.

`export` writes a file and compares what it gives with what the model gives, `open_file` runs one, `ort_library` makes
onnxruntime faster at it, `paste_masks` puts a detector's masks into the image, and `fold` makes a model faster where it
is.
"""

from mmsparx.export.api import Exported, export
from mmsparx.export.checks import DisagreementError
from mmsparx.export.detection import paste_masks
from mmsparx.export.fold import fold
from mmsparx.export.library import ort_library
from mmsparx.export.runtimes import open_file

__all__ = ['DisagreementError', 'Exported', 'export', 'fold', 'open_file', 'ort_library', 'paste_masks']
