"""The SparX network: four stages of normal and ganglion layers over any token mixer.

Source: SparX (Lou, Fu, Yu; AAAI 2025), Sec. 3; where paper and published checkpoints disagree, the
checkpoints are followed, and the docstrings of the parts say where.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import ClassVar

import torch
from mmengine.model import BaseModule, PretrainedInit
from torch import Tensor, nn

from mmsparx.layers.basic import ChannelScale, ConvFFN, DropPath, downsample, init_weights, stem
from mmsparx.layers.checkpointing import checkpointed
from mmsparx.layers.norm import BatchNorm, ChannelLayerNorm, map_norm
from mmsparx.models.architecture import Architecture
from mmsparx.models.connection import StagePlan
from mmsparx.registry import AGGREGATORS, TOKEN_MIXERS, factory
from mmsparx.weights import flatten_hook, load_pretrained, rename_published
from mmsparx.weights.names import SPARX, NameMap


class SparXLayer(nn.Module):
    """One layer, normal or ganglion: position encoding, token mixer, feed-forward.

    x + dwconv(x), then twice scale(x) + drop_path(branch(norm(x))). A ganglion layer is one whose
    mixer has an aggregator and is given sources.

    Args:
        dim: channels.
        mixer: the token mixer.
        drop_path: stochastic-depth rate of both branches.
        shortcut_scale: whether the shortcuts carry a weight and a bias per channel.
    """

    def __init__(self, dim: int, mixer: nn.Module, drop_path: float, shortcut_scale: bool):
        super().__init__()
        self.position = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)
        self.norm1 = map_norm(dim)
        self.mixer = mixer
        self.scale1 = ChannelScale(dim) if shortcut_scale else nn.Identity()
        self.norm2 = map_norm(dim)
        self.ffn = ConvFFN(dim)
        self.scale2 = ChannelScale(dim) if shortcut_scale else nn.Identity()
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, *sources: Tensor) -> Tensor:
        """(B, C, H, W), and a ganglion layer's sources of the same shape -> (B, C, H, W)."""
        x = x + self.position(x)
        x = self.scale1(x) + self.drop_path(self.mixer(self.norm1(x), *sources))
        return self.scale2(x) + self.drop_path(self.ffn(self.norm2(x)))


class SparXStage(nn.Module):
    """The layers of a stage, wired by its plan, and the downsampling that follows it.

    Args:
        plan: which layer reads which.
        layers: in order.
        downsample: to the next stage; None for the last.
        with_cp: whether layers are recomputed in backward instead of keeping their activations.
    """

    def __init__(self, plan: StagePlan, layers: Sequence[SparXLayer], downsample: nn.Module | None, with_cp: bool):
        super().__init__()
        self.plan = plan
        self.layers = nn.ModuleList(layers)
        self.downsample = downsample
        self.with_cp = with_cp

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the last layer's output, before the downsampling."""
        features = [x]
        for i, layer in enumerate(self.layers):
            inputs = (features[-1], *(features[j] for j in self.plan.sources(i)))
            recomputed = self.with_cp and torch.is_grad_enabled()
            features.append(checkpointed(layer, *inputs) if recomputed else layer(*inputs))
        return features[-1]

    def extra_repr(self) -> str:
        return f'plan: {self.plan}'


# Of `init_cfg=dict(type='Pretrained', ...)`, as those of `load_pretrained`.
_LOADING_OPTIONS = {'checkpoint', 'prefix', 'may_differ', 'weights', 'adapt_channels'}


class SparXNet(BaseModule):
    """A hierarchical backbone with sparse cross-layer connections, for dense prediction and more.

    Args:
        arch: a name of `ARCHITECTURES`, or a dict of `Architecture`'s fields.
        in_channels: channels of the picture.
        out_indices: the stages to return, counted from 0; later stages are not built.
        token_mixer: `dict(type=name in TOKEN_MIXERS, **options)`.
        aggregator: `dict(type=name in AGGREGATORS, **options)`; the published detectors have
            `learnable_scale=True`.
        drop_path_rate: of the last layer; the first one's is 0, linear between.
        output_norm: whether each output goes through a LayerNorm over channels of its own, as dense
            prediction wants it; a classifier's head has its own norm.
        norm_cfg: of the batch norms: `dict(type='BN' | 'SyncBN', requires_grad=True, ...)`.
        norm_eval: keep batch norms in eval mode in training.
        frozen_stages: how many stages, the stem and their downsampling included, are fixed (no
            gradient, eval mode); 0 fixes the stem alone, -1 nothing. Output norms stay trainable:
            they are not part of the pretrained weights.
        with_cp: gradient checkpointing, for all stages or for those listed (counted from 0).
        init_cfg: `dict(type='Pretrained', checkpoint=...)` loads published or own weights strictly, with the options of
            `load_pretrained`: `prefix`, `weights`, `may_differ`, and `adapt_channels=True` to start from weights of RGB
            images with other `in_channels`. Other kinds are mmengine's.

    Raises:
        ValueError: an unknown arch, mixer, aggregator or norm, or stages that are not there.
    """

    ARCHITECTURES: ClassVar[Mapping[str, Architecture]] = {}
    # For `mmsparx.weights`: the published names of the family, and the weight that the image goes through first.
    weight_names: ClassVar[NameMap] = SPARX
    first_weight: ClassVar[str] = 'stem.0.weight'

    def __init__(
        self,
        arch: str | Mapping | Architecture = 'tiny',
        *,
        in_channels: int = 3,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        token_mixer: Mapping = {'type': 'SS2D'},
        aggregator: Mapping = {'type': 'DMCA'},
        drop_path_rate: float = 0.0,
        output_norm: bool = True,
        norm_cfg: Mapping = {'type': 'BN', 'requires_grad': True},
        norm_eval: bool = False,
        frozen_stages: int = -1,
        with_cp: bool | Sequence[int] = False,
        init_cfg: Mapping | Sequence[Mapping] | None = None,
    ):
        super().__init__(init_cfg)
        self.arch = Architecture.of(arch, self.ARCHITECTURES)
        count = len(self.arch.stages)
        self.out_indices = tuple(out_indices)
        self.norm_eval = norm_eval
        self.frozen_stages = frozen_stages
        if not self.out_indices or not all(isinstance(i, int) and 0 <= i < count for i in self.out_indices):
            raise ValueError(f'out_indices: expected stages from 0 to {count - 1}, got {out_indices!r}')
        built = max(self.out_indices) + 1
        if not -1 <= frozen_stages <= built:
            raise ValueError(f'frozen_stages: expected -1 to {built} for {built} stages, got {frozen_stages}')
        if isinstance(with_cp, bool):
            with_cp = range(built) if with_cp else ()
        if not set(with_cp) <= set(range(count)):
            raise ValueError(f'with_cp: expected a bool or stages from 0 to {count - 1}, got {with_cp!r}')

        self.stem = stem(in_channels, self.arch.channels[0], self.arch.stem_depth, norm_cfg)
        rates = iter(torch.linspace(0, drop_path_rate, self.arch.depth, device='cpu').tolist())
        self.stages = nn.ModuleList(
            self._stage(i, i + 1 < built, token_mixer, aggregator, rates, norm_cfg, i in with_cp) for i in range(built)
        )
        self.out_norms = nn.ModuleDict(
            {str(i): ChannelLayerNorm(self.arch.channels[i], eps=1e-6) for i in self.out_indices if output_norm}
        )
        # The batch norm that sees the smallest map has this stride: at stages with ganglion layers,
        # the aggregator's reduction comes on top of the stage's own.
        self.largest_stride = max(
            4 * 2**i * (self.arch.reductions[i] if self.arch.stages[i].ganglia else 1) for i in range(built)
        )
        self.apply(init_weights)
        self._register_load_state_dict_pre_hook(self._rename_published)
        self.train()

    def _stage(self, i, followed, token_mixer, aggregator, rates, norm_cfg, with_cp) -> SparXStage:
        plan, dim = self.arch.stages[i], self.arch.channels[i]
        make_mixer = factory(TOKEN_MIXERS, 'token_mixer', token_mixer)
        make_aggregator = factory(
            AGGREGATORS, 'aggregator', aggregator, reduction=self.arch.reductions[i], norm_cfg=norm_cfg
        )
        layers = []
        for j in range(plan.depth):
            sources = len(plan.sources(j))
            mixer = make_mixer(dim, partial(make_aggregator, sources=sources) if sources else None)
            layers.append(SparXLayer(dim, mixer, next(rates), self.arch.shortcut_scales[i]))
        following = downsample(dim, self.arch.channels[i + 1], norm_cfg) if followed else None
        return SparXStage(plan, layers, following, with_cp)

    @classmethod
    def _checkpoint_filter(cls, state_dict, prefix='', *_) -> None:
        """mmpretrain's ImageClassifier has what it loads go through it, and published classifiers are flat."""
        flatten_hook(cls.weight_names)(state_dict, prefix)

    @classmethod
    def _rename_published(cls, state_dict, prefix, *_) -> None:
        """Published checkpoints load wherever this network stands: in a detector, by any loader."""
        rename_published(state_dict, cls.weight_names, prefix)

    def init_weights(self) -> None:
        """Load pretrained weights strictly, or leave it to mmengine; once, as mmengine does.

        Raises:
            ValueError: other kinds of initial values beside pretrained ones, or an option that there is not.
            RuntimeError: see `load_pretrained`.
        """
        cfgs = [self.init_cfg] if isinstance(self.init_cfg, Mapping) else list(self.init_cfg or ())
        pretrained = [cfg for cfg in cfgs if cfg.get('type') in ('Pretrained', PretrainedInit)]
        if not pretrained or self.is_init:
            super().init_weights()
            return
        if len(cfgs) > 1:
            raise ValueError(f'init_cfg: pretrained weights fill the network and stand alone, got {self.init_cfg}')
        options = {key: value for key, value in pretrained[0].items() if key not in ('type', 'map_location')}
        if unknown := sorted(options.keys() - _LOADING_OPTIONS):
            raise ValueError(
                f'init_cfg: unknown option {", ".join(unknown)} of pretrained weights; known ones: '
                f'{", ".join(sorted(_LOADING_OPTIONS))}'
            )
        if 'checkpoint' not in options:
            raise ValueError("init_cfg: expected checkpoint='file or address' of the pretrained weights, got none")
        load_pretrained(self, options.pop('checkpoint'), **options)
        self.is_init = True

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """(B, in_channels, H, W) -> per stage of `out_indices` a (B, C, ceil(H / s), ceil(W / s)),
        s = 4, 8, 16, 32. Any H and W from 1 on.

        Raises:
            ValueError: in training, a picture so small that a batch norm would see one value.
        """
        if self.training:
            self._check_statistics(x)
        outputs = []
        x = self.stem(x)
        for i, stage in enumerate(self.stages):
            x = stage(x)
            if i in self.out_indices:
                outputs.append(self.out_norms[str(i)](x) if self.out_norms else x)
            if stage.downsample is not None:
                x = stage.downsample(x)
        return tuple(outputs)

    def train(self, mode: bool = True) -> 'SparXNet':
        super().train(mode)
        self._freeze()
        if mode and self.norm_eval:
            for module in self.modules():
                if isinstance(module, BatchNorm):
                    module.eval()
        return self

    def _freeze(self) -> None:
        if self.frozen_stages < 0:
            return
        for module in (self.stem, *self.stages[: self.frozen_stages]):
            module.eval()
            module.requires_grad_(False)

    def _check_statistics(self, x: Tensor) -> None:
        """Batch norms in training need more than one value per channel."""
        stride = self.largest_stride
        if x.shape[0] != 1 or max(x.shape[2:]) > stride:
            return
        training = [m for m in self.modules() if isinstance(m, BatchNorm) and m.training]
        shared = torch.distributed.is_available() and torch.distributed.is_initialized()
        if not training or (shared and any(isinstance(m, nn.SyncBatchNorm) for m in training)):
            return
        raise ValueError(
            f'{type(self).__name__} in training: a picture of {tuple(x.shape[2:])} in a batch of 1 is reduced to a '
            f'1x1 map (stride {stride}), where a batch norm has no statistics. Use a side of more than {stride}, more '
            'pictures in a batch, or norm_eval=True.'
        )
