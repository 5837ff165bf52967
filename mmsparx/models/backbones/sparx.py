"""The SparX network: stages of normal and ganglion layers over any token mixer, in any style of micro-blocks.

Source: SparX (Lou, Fu, Yu; AAAI 2025), Sec. 3; where paper and published checkpoints disagree, the
checkpoints are followed, and the docstrings of the parts say where.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import ClassVar

import torch
from mmengine.model import BaseModule, PretrainedInit
from torch import Tensor, nn

from mmsparx.hub import HubModel
from mmsparx.layers.basic import DOWNSAMPLES, FFNS, STEMS, init_weights
from mmsparx.layers.checks import check_sizes
from mmsparx.layers.norm import NORMS, BatchNorm, ChannelLayerNorm
from mmsparx.layers.recompute import recomputing
from mmsparx.models.architecture import Architecture
from mmsparx.models.connection import is_integer
from mmsparx.models.stage import SparXLayer, SparXStage
from mmsparx.models.style import Style
from mmsparx.registry import AGGREGATORS, TOKEN_MIXERS, factory, lookup
from mmsparx.weights import flatten_hook, load_pretrained, rename_published
from mmsparx.weights.names import SPARX, NameMap

# Options of `init_cfg=dict(type='Pretrained', ...)`, as those of `load_pretrained`.
_LOADING_OPTIONS = {'checkpoint', 'prefix', 'may_differ', 'weights', 'adapt_channels'}


class SparXNet(HubModel, BaseModule):
    """A hierarchical backbone with sparse cross-layer connections, for dense prediction and more.

    Without ganglion layers in its plan it is a plain network of its style. `from_pretrained`, `save_pretrained` and
    `push_to_hub` are those of `mmsparx.hub.HubModel`.

    Args:
        arch: Name of `ARCHITECTURES`, or a dict of `Architecture`'s fields, which may start from such a name, as in
            `dict(base='tiny', stages=[...])`.
        in_channels: Number of channels of the image.
        out_indices: Stages to return, counted from 0; later stages are not built.
        style: Style of the micro-blocks: a name ('sparx', 'vmamba', 'swin'), or
            `dict(type=name, **fields of Style that differ)`; by default the family's.
        token_mixer: Config of the token mixer, `dict(type=name in TOKEN_MIXERS, **options)`; by default the family's.
            Options that it does not hold are those of `arch` and, where the mixer is the family's, the family's.
        aggregator: Config of the aggregator, `dict(type=name in AGGREGATORS, **options)`, by default the family's; the
            published detectors have `learnable_scale=True`.
        drop_path_rate: Stochastic-depth rate of the last layer; the first one's is 0, linear between.
        output_norm: Whether each output goes through a LayerNorm over channels of its own, as dense
            prediction wants it; a classifier's head has its own norm.
        norm_cfg: Config of the batch norms: `dict(type='BN' | 'SyncBN', requires_grad=True, ...)`. The norms of the
            style are set by `style`.
        norm_eval: Whether batch norms are kept in eval mode in training.
        frozen_stages: Number of stages that are fixed (no gradient, eval mode), with the stem and the downsampling
            that follows each of them; 0 fixes the stem alone, -1 nothing. Output norms stay trainable:
            they are not part of the pretrained weights.
        with_cp: Gradient checkpointing, for all stages or for those listed (counted from 0).
        init_cfg: Config of the initial values. `dict(type='Pretrained', checkpoint=...)` loads published or own weights
            strictly, with the options of `load_pretrained`: `prefix`, `weights`, `may_differ`, and
            `adapt_channels=True` to start from weights of RGB images with other `in_channels`. Other kinds are
            mmengine's.
        pretrained: None. Segmenters of mmseg hand their own `pretrained` on, which in its base configs is of another
            backbone; pretrained weights are given as `init_cfg` alone.

    Raises:
        ValueError: Pretrained weights as `pretrained`, unknown arch, style, mixer, aggregator or norm, another norm
            than a batch norm as `norm_cfg`, an option of the architecture that does not fit the style, or stages that
            are not there.
    """

    ARCHITECTURES: ClassVar[Mapping[str, Architecture]] = {}
    # Defaults of a family's networks.
    STYLE: ClassVar[str] = 'sparx'
    TOKEN_MIXER: ClassVar[Mapping] = {'type': 'SS2D'}
    AGGREGATOR: ClassVar[Mapping] = {'type': 'DMCA'}
    # `mmsparx.weights` uses these: the published names of the family, and the weight that the image goes through first.
    weight_names: ClassVar[NameMap] = SPARX
    first_weight: ClassVar[str] = 'stem.0.weight'
    # `mmsparx.hub` uses these.
    hub_parts = {'token_mixer': TOKEN_MIXERS, 'aggregator': AGGREGATORS}
    hub_omitted = frozenset({'init_cfg', 'pretrained'})

    def __init__(
        self,
        arch: str | Mapping | Architecture = 'tiny',
        *,
        in_channels: int = 3,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        style: str | Mapping | Style | None = None,
        token_mixer: Mapping | None = None,
        aggregator: Mapping | None = None,
        drop_path_rate: float = 0.0,
        output_norm: bool = True,
        norm_cfg: Mapping = {'type': 'BN', 'requires_grad': True},
        norm_eval: bool = False,
        frozen_stages: int = -1,
        with_cp: bool | Sequence[int] = False,
        init_cfg: Mapping | Sequence[Mapping] | None = None,
        pretrained: None = None,
    ):
        if pretrained is not None:
            raise ValueError(
                f"{type(self).__name__}: expected pretrained weights as init_cfg=dict(type='Pretrained', "
                f'checkpoint=...), got pretrained={pretrained!r}. In a config, set model.pretrained=None (a base '
                'config may have set it for another backbone, as those of mmseg do) and model.backbone.init_cfg'
            )
        super().__init__(init_cfg)
        self.arch = Architecture.of(arch, self.ARCHITECTURES)
        self.style = Style.of(self.STYLE if style is None else style)
        for table, option in ((STEMS, 'stem'), (DOWNSAMPLES, 'downsample'), (NORMS, 'norm'), (FFNS, 'ffn')):
            if (name := getattr(self.style, option)) not in table:
                raise ValueError(f'style: unknown {option} {name!r}; known ones: {", ".join(table)}')
        count = len(self.arch.stages)
        check_sizes(type(self).__name__, in_channels=in_channels)
        _check_batch_norm(norm_cfg)
        self.out_indices = tuple(out_indices) if isinstance(out_indices, Iterable) else (out_indices,)
        self.norm_eval = norm_eval
        self.frozen_stages = frozen_stages
        stages = [i for i in range(count) if i in self.out_indices]
        if not stages or stages != list(self.out_indices) or not all(map(is_integer, self.out_indices)):
            raise ValueError(
                f'out_indices: expected stages from 0 to {count - 1}, got {out_indices!r}; each once, in order'
            )
        built = max(self.out_indices) + 1
        if not is_integer(frozen_stages) or not -1 <= frozen_stages <= built:
            raise ValueError(f'frozen_stages: expected -1 to {built} for {built} stages, got {frozen_stages!r}')
        if isinstance(with_cp, bool):
            with_cp = range(built) if with_cp else ()
        if not isinstance(with_cp, Iterable) or not set(with_cp) <= set(range(count)):
            raise ValueError(f'with_cp: expected a bool or stages from 0 to {count - 1}, got {with_cp!r}')

        if self.style.stem == 'patch' and self.arch.stem_depth != 2:
            raise ValueError(
                f"arch: stem_depth={self.arch.stem_depth} does not fit the style, whose stem 'patch' has one "
                'convolution; leave it out'
            )
        self.stem = STEMS[self.style.stem](in_channels, self.arch.channels[0], self.arch.stem_depth, norm_cfg)
        mixer = self._mixer_config(token_mixer)
        aggregator = self.AGGREGATOR if aggregator is None else aggregator
        # torch.linspace would have no values in FakeTensorMode.
        last = max(self.arch.depth - 1, 1)
        rates = (drop_path_rate * i / last for i in range(self.arch.depth))
        self.stages = nn.ModuleList(
            self._stage(i, mixer, aggregator, rates, norm_cfg, i in with_cp) for i in range(built)
        )
        eps = self.style.output_norm_eps
        self.out_norms = nn.ModuleDict(
            {str(i): ChannelLayerNorm(self.arch.channels[i], eps=eps) for i in self.out_indices if output_norm}
        )
        self.largest_stride = self._largest_stride()
        self.apply(init_weights)
        self._register_load_state_dict_pre_hook(self._rename_published)
        # There are no values to keep on the meta device, until they are set or loaded.
        self._has_values = not any(p.is_meta for p in self.parameters())
        self._register_load_state_dict_pre_hook(_note_values, with_module=True)
        self.train()

    def _mixer_config(self, given: Mapping | None) -> dict:
        """The token mixer's config: what is given, then the architecture's options, then the family's."""
        family = self.TOKEN_MIXER
        if given is None:
            given = family
        elif not isinstance(given, Mapping):
            raise ValueError(f"token_mixer: expected a dict with a 'type', got {given!r}")
        elif 'type' in given and lookup(TOKEN_MIXERS, given['type']) is lookup(TOKEN_MIXERS, family['type']):
            given = {**family, **given}
        return {**self.arch.token_mixer, **given}

    def _stage(
        self, i: int, mixer: Mapping, aggregator: Mapping, rates: Iterator[float], norm_cfg: Mapping, with_cp: bool
    ) -> SparXStage:
        arch, style = self.arch, self.style
        plan, dim = arch.stages[i], arch.channels[i]
        scaled = style.shortcut_scales and i >= 2 if arch.shortcut_scales is None else arch.shortcut_scales[i]
        downsample = DOWNSAMPLES[style.downsample](arch.channels[i - 1], dim, norm_cfg) if i else None
        make_aggregator = factory(
            AGGREGATORS, 'aggregator', aggregator, reduction=arch.reductions[i], norm_cfg=norm_cfg
        )
        layers = []
        for j in range(plan.depth):
            make_mixer = factory(TOKEN_MIXERS, 'token_mixer', mixer, index=j)
            aggregate = partial(make_aggregator, sources=len(plan.sources(j))) if j in plan.ganglia else None
            layers.append(SparXLayer(dim, make_mixer(dim, aggregate), style, next(rates), scaled))
        return SparXStage(plan, layers, downsample, with_cp)

    def _largest_stride(self) -> int:
        """Stride of the smallest map that a batch norm sees; 0 where there is no batch norm.

        In a stage's layers these are the aggregators' batch norms, which may come after a reduction.
        """
        strides = [4] if _has_batch_norms(self.stem) else [0]
        for i, stage in enumerate(self.stages):
            if _has_batch_norms(stage.layers):
                convolutions = (m for m in stage.layers.modules() if isinstance(m, nn.Conv2d))
                strides.append(4 * 2**i * max(max(conv.stride) for conv in convolutions))
            elif _has_batch_norms(stage):
                strides.append(4 * 2**i)
        return max(strides)

    @classmethod
    def _checkpoint_filter(cls, state_dict, prefix='', *_) -> None:
        """mmpretrain's ImageClassifier has what it loads go through it, and published classifiers are flat."""
        flatten_hook(cls.weight_names)(state_dict, prefix)

    @classmethod
    def _rename_published(cls, state_dict, prefix, *_) -> None:
        """Published checkpoints load wherever this network stands: in a detector, by any loader."""
        rename_published(state_dict, cls.weight_names, prefix)

    def get_layer_depth(self, param_name: str, prefix: str = '') -> tuple[int, int]:
        """Depth of a parameter, for learning rates that decay from layer to layer; mmpretrain's protocol.

        The stem has depth 0, the layers follow, each deeper by 1 than the one before, and a downsampling has the depth
        of the layer that it leads to. Output norms and what is outside of the network are the deepest.

        Args:
            param_name: Name of the parameter in a model.
            prefix: Prefix of this network's parameters in the model, such as 'backbone.'.

        Returns:
            The depth, and the number of depths.
        """
        depths = [len(stage.layers) for stage in self.stages]
        count = sum(depths) + 2
        part, *rest = param_name.removeprefix(prefix).split('.')
        if not param_name.startswith(prefix) or part not in ('stem', 'stages'):
            return count - 1, count
        if part == 'stem':
            return 0, count
        stage, inside, layer, *_ = rest
        return 1 + sum(depths[: int(stage)]) + (int(layer) if inside == 'layers' else 0), count

    def reset_parameters(self) -> None:
        """Set all initial values again, as for a network from `torch.device('meta')` after `to_empty`."""
        for module in self.modules():
            if module is not self and hasattr(module, 'reset_parameters'):
                module.reset_parameters()
        self.apply(init_weights)
        self._has_values = True

    def init_weights(self) -> None:
        """Load pretrained weights strictly, or leave it to mmengine; once, as mmengine does.

        A network that was built on the meta device, and got memory by `to_empty`, gets its initial values first.

        Raises:
            ValueError: Other kinds of initial values beside pretrained ones, or an unknown option.
            RuntimeError: See `load_pretrained`.
        """
        cfgs = [self.init_cfg] if isinstance(self.init_cfg, Mapping) else list(self.init_cfg or ())
        pretrained = [cfg for cfg in cfgs if cfg.get('type') in ('Pretrained', PretrainedInit)]
        if not self._has_values and not any(p.is_meta for p in self.parameters()):
            self.reset_parameters()
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
            ValueError: In training, an image so small that a batch norm would see one value.
        """
        if self.training:
            self._check_statistics(x)
        outputs = []
        x = recomputing(self.stem, x)
        for i, stage in enumerate(self.stages):
            x = stage(x)
            if i in self.out_indices:
                outputs.append(self.out_norms[str(i)](x) if self.out_norms else x)
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
        fixed = [self.stem, *self.stages[: self.frozen_stages]]
        # The downsampling after the last of them is in the next stage.
        fixed += [stage.downsample for stage in self.stages[self.frozen_stages :][:1] if stage.downsample is not None]
        for module in fixed:
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
            f'{type(self).__name__} in training: an image of {tuple(x.shape[2:])} in a batch of 1 is reduced to a '
            f'1x1 map (stride {stride}), where a batch norm has no statistics. Use a side of more than {stride}, more '
            'images in a batch, or norm_eval=True.'
        )


def _note_values(module: 'SparXNet', state_dict, prefix, local_metadata, *_) -> None:
    """Initial values are not set over loaded ones; on the meta device torch loads by assignment alone."""
    assigned = local_metadata.get('assign_to_params_buffers', False)
    module._has_values |= assigned or not any(p.is_meta for p in module.parameters())


def _check_batch_norm(norm_cfg: object) -> None:
    """Refuse what is not the config of a batch norm."""
    kind = norm_cfg.get('type') if isinstance(norm_cfg, Mapping) else norm_cfg
    if kind not in ('BN', 'SyncBN'):
        raise ValueError(
            f"norm_cfg: expected dict(type='BN') or dict(type='SyncBN'), for the batch norms, got {norm_cfg!r}. The "
            'norm before mixers and feed-forwards is set by style=dict(type=..., norm=...).'
        )


def _has_batch_norms(module: nn.Module) -> bool:
    return any(isinstance(m, BatchNorm) for m in module.modules())
