"""SparX-Swin: SparX over Swin's shifted-window attention (Table 8, Appendix A.3)."""

from mmsparx.models.architecture import Architecture
from mmsparx.models.backbones.sparx import SparXNet
from mmsparx.models.connection import StagePlan
from mmsparx.registry import register_backbone


@register_backbone
class SparXSwin(SparXNet):
    """SparX-Swin-T and -B, built from the paper; there are no published weights.

    See `SparXNet` for arguments and outputs. `arch` is 'tiny', 'base', or a dict of `Architecture`'s fields.

    Determined by the paper: channels, layers, the micro-blocks of the plain Swin and, in T, the plan of SparX-Mamba-T.
    Fitted to the paper's figures: the aggregator takes the place of the qkv projection (in front of it, T would have
    27.55 M parameters where the paper has 26); the heads, whose size is 32 where that divides the channels and else
    the nearest to it; the plan of B, for which the paper gives neither S nor M. T has 26.44 M parameters (the paper:
    26) and 4.66 GFLOPs (4.7), B 87.40 M (88) and 16.31 GFLOPs (16.2). The paper's text has no drop-path rate; Swin's
    are 0.2 and 0.5.
    """

    STYLE = 'swin'
    TOKEN_MIXER = {'type': 'WindowAttention'}
    ARCHITECTURES = {
        'tiny': Architecture(
            channels=(96, 192, 320, 576),
            stages=(
                StagePlan(depth=2),
                StagePlan(depth=2, stride=1, first=1),
                StagePlan(depth=7, stride=2, window=3),
                StagePlan(depth=2, stride=1),
            ),
        ),
        'base': Architecture(
            channels=(120, 240, 396, 616),
            stages=(
                StagePlan(depth=2),
                StagePlan(depth=2, stride=1, first=1),
                StagePlan(depth=27, stride=5, window=3),
                StagePlan(depth=3, stride=1, first=1),
            ),
        ),
    }
