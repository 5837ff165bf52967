"""VMamba, the plain network over SS2D that SparX-Mamba is compared with."""

from mmsparx.models.architecture import Architecture
from mmsparx.models.backbones.sparx import SparXNet
from mmsparx.models.connection import StagePlan
from mmsparx.registry import register_backbone
from mmsparx.weights.names import VMAMBA


@register_backbone
class VMamba(SparXNet):
    """VMamba (Liu et al., NeurIPS 2024) as its published checkpoints have it.

    See `SparXNet` for arguments and outputs. `arch` is 'tiny', 'tiny_s1l8', 'small', 'base', or a dict of
    `Architecture`'s fields. Without ganglion layers, the aggregator does not matter.

    Determined by VMamba's checkpoints, whose weights these networks take: 'tiny' is the variant s2l5, with which the
    SparX paper compares, 'tiny_s1l8' the newer VMamba-T; 'small' and 'base' are s2l15. VMamba's drop-path rates are
    0.2 for both tiny ones, 0.3 and 0.6.
    """

    STYLE = 'vmamba'
    TOKEN_MIXER = {'type': 'SS2D', 'kernel_size': 3, 'conv_bias': False, 'proj_bias': False, 'norm': 'LN2d'}
    weight_names = VMAMBA
    ARCHITECTURES = {
        'tiny': Architecture(
            channels=(96, 192, 384, 768),
            stages=(StagePlan(depth=2), StagePlan(depth=2), StagePlan(depth=5), StagePlan(depth=2)),
        ),
        'tiny_s1l8': Architecture(
            channels=(96, 192, 384, 768),
            stages=(StagePlan(depth=2), StagePlan(depth=2), StagePlan(depth=8), StagePlan(depth=2)),
            token_mixer={'expand': 1},
        ),
        'small': Architecture(
            channels=(96, 192, 384, 768),
            stages=(StagePlan(depth=2), StagePlan(depth=2), StagePlan(depth=15), StagePlan(depth=2)),
        ),
        'base': Architecture(
            channels=(128, 256, 512, 1024),
            stages=(StagePlan(depth=2), StagePlan(depth=2), StagePlan(depth=15), StagePlan(depth=2)),
        ),
    }
