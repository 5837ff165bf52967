"""Networks, and `load_pretrained` for their published weights. Needs mmengine."""

try:
    import mmengine  # noqa: F401
except ModuleNotFoundError as error:
    if error.name != 'mmengine':
        raise
    raise ModuleNotFoundError(
        "mmsparx.models needs mmengine, which is not installed: pip install 'mmsparx[mmengine]', or onedl-mmengine",
        name='mmengine',
    ) from error

import mmsparx.models.heads  # noqa: F401  (registers them)
from mmsparx.models.backbones import SparXMamba, SparXNet, SparXSwin, VMamba
from mmsparx.models.classifier import SparXClassifier
from mmsparx.models.connection import StagePlan
from mmsparx.models.drawing import draw_plan
from mmsparx.models.style import Style
from mmsparx.weights import LoadReport, load_pretrained

__all__ = [
    'LoadReport',
    'SparXClassifier',
    'SparXMamba',
    'SparXNet',
    'SparXSwin',
    'StagePlan',
    'Style',
    'VMamba',
    'draw_plan',
    'load_pretrained',
]
