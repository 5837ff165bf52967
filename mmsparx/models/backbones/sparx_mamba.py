"""SparX-Mamba: SparX over the SS2D token mixer (Table 1)."""

from mmsparx.models.architecture import Architecture
from mmsparx.models.backbones.sparx import SparXNet
from mmsparx.models.connection import StagePlan
from mmsparx.registry import register_backbone


@register_backbone
class SparXMamba(SparXNet):
    """SparX-Mamba-T, -S and -B, exactly as the published checkpoints have them.

    See `SparXNet` for arguments and outputs. `arch` is 'tiny', 'small', 'base', or a dict of
    `Architecture`'s fields. Determined by the published checkpoints. Deviation from the paper: only the
    last layer of stage 4 is a ganglion layer in B, where the paper says that all are.
    """

    ARCHITECTURES = {
        'tiny': Architecture(
            channels=(96, 192, 320, 512),
            stages=(
                StagePlan(depth=2),
                StagePlan(depth=2, stride=1, first=1),
                StagePlan(depth=7, stride=2, window=3),
                StagePlan(depth=2, stride=1),
            ),
            stem_depth=2,
        ),
        'small': Architecture(
            channels=(96, 192, 328, 544),
            stages=(
                StagePlan(depth=2),
                StagePlan(depth=2, stride=1, first=1),
                StagePlan(depth=17, stride=3, window=3),
                StagePlan(depth=2, stride=1),
            ),
            stem_depth=3,
        ),
        'base': Architecture(
            channels=(120, 240, 396, 636),
            stages=(
                StagePlan(depth=2),
                StagePlan(depth=2, stride=1, first=1),
                StagePlan(depth=21, stride=3, window=3),
                StagePlan(depth=3, stride=1, first=2),
            ),
            stem_depth=3,
        ),
    }
