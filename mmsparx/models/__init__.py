"""Networks, and what loads their published weights. Needs mmengine."""

from mmsparx.models.backbones import SparXMamba, SparXNet
from mmsparx.models.checkpoint import LoadReport, load_pretrained
from mmsparx.models.classifier import SparXClassifier
from mmsparx.models.connection import StagePlan

__all__ = ['LoadReport', 'SparXClassifier', 'SparXMamba', 'SparXNet', 'StagePlan', 'load_pretrained']
