"""Why a checkpoint does not match a model, from names and shapes, and what helps."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from mmsparx.weights.names import find_backbones
from mmsparx.weights.report import LoadReport, shorten

# Layers with an output per class, and how many classes so many outputs are.
_CLASSES = {
    r'(^|\.)fc_cls\.': lambda outputs: outputs - 1,  # and the background
    r'(^|\.)(head\.fc|conv_logits|conv_seg)\.': lambda outputs: outputs,
}
# What torch keeps of a weight that is computed from others, and how it becomes one weight again.
_COMPUTED = {
    r'\.weight_mask$|\.weight_orig$': (
        'a pruned model (torch.nn.utils.prune)',
        "torch.nn.utils.prune.remove(module, 'weight')",
    ),
    r'\.weight_[gv]$': ('a model with weight normalisation', 'torch.nn.utils.remove_weight_norm(module)'),
    r'\.parametrizations\.': (
        'a model with parametrizations, such as weight or spectral normalisation',
        "torch.nn.utils.parametrize.remove_parametrizations(module, 'weight')",
    ),
}


@dataclass(frozen=True)
class Options:
    """How a message calls what helps, for those who load by `load_pretrained`, `init_cfg` and configs.

    Attributes:
        arch: another architecture, by its {name}.
        channels: to fit a stem of RGB images.
        in_channels: the option of the images' channels.
        scale: to have a learnable attention scale.
        no_scale: to have none.
        prefix: to load names that begin with {prefix}; None where there is no such option.
        alone: to load the backbone of a model, {part}, alone; None where there is none.
        differ: to let names that fit {patterns} differ; None where there is none.
    """

    arch: str = 'arch={name!r}'
    channels: str = "adapt_channels=True in init_cfg=dict(type='Pretrained', ...) or load_pretrained(...)"
    in_channels: str = 'in_channels'
    scale: str = 'aggregator=dict(..., learnable_scale=True)'
    no_scale: str = 'leave learnable_scale=True out of the aggregator'
    prefix: str | None = 'prefix={prefix!r}'
    alone: str | None = (
        'load_pretrained(model.{part}, ...), or init_cfg=dict(type="Pretrained", checkpoint=...) of the backbone'
    )
    differ: str | None = 'may_differ={patterns}'


@dataclass
class Mismatch:
    """A checkpoint that does not match a model.

    Attributes:
        report: what does not match.
        model: that the weights were meant for.
        home: the prefix of its backbone's names; None if it has none that is known, or several.
        found: the checkpoint's weights, as far as possible by the model's names.
        names: all names of the checkpoint, as they are in it.
        flat: whether these are a backbone's or a classifier's, and the model is more than a backbone.
        options: how to call what helps.
    """

    report: LoadReport
    model: nn.Module
    home: str | None
    found: Mapping[str, Tensor]
    names: Collection[str]
    flat: bool
    options: Options

    def likely_cause(self) -> str:
        """What may be the cause, and what helps."""
        of_backbone = (self._no_backbone, self._channels, self._another_arch, self._scale)
        guesses = (
            self._computed,
            *(of_backbone if self.home is not None else ()),
            self._backbone_alone,
            self._heads,
            self._rest,
        )
        causes = (guess() for guess in guesses)
        return next((cause for cause in causes if cause), 'The checkpoint is of another network, or incomplete.')

    def _computed(self) -> str | None:
        for pattern, (kind, remedy) in _COMPUTED.items():
            if names := [name for name in self.report.unexpected if re.search(pattern, name)]:
                return (
                    f'It is the file of {kind}, which has {shorten(names, 2)} in the place of one weight. In the model '
                    f'that wrote it, call {remedy} for each such module, and save it again.'
                )
        return None

    def _no_backbone(self) -> str | None:
        there = sorted(find_backbones(self.names))
        if not there:
            if not self.names:
                return 'It holds no weights at all.'
            return f"None of its names is a SparX backbone's; they begin with: {shorten(self.names)}."
        if self.home in find_backbones(self.found):
            return None
        said = f'The names of the SparX backbone in it begin with {there[0]!r}'
        if there[0].endswith(self.home) and self.options.prefix:
            return f'{said}; try {self.options.prefix.format(prefix=there[0].removesuffix(self.home))}.'
        return f'{said}, and in the model with {self.home!r}.'

    def _channels(self) -> str | None:
        name = self.home + getattr(self.model.get_submodule(self.home.removesuffix('.')), 'first_weight', '')
        shapes = self.report.wrong_shape.get(name)
        if shapes is None or len(shapes[1]) != 4 or shapes[0][2:] != shapes[1][2:] or shapes[0][0] != shapes[1][0]:
            return None
        ours, theirs = shapes[0][1], shapes[1][1]
        helps = f' It can be fitted: {self.options.channels}.' if theirs == 3 else ''
        here = f'{self.options.in_channels}={ours}'
        return f'Its stem takes images of {theirs} channels, and that of the model has {here}.{helps}'

    def _another_arch(self) -> str | None:
        inside = re.escape(self.home)
        (layers, stem), (file_layers, file_stem) = (
            [
                {match[0] for name in names if (match := re.match(inside + part, name))}
                for part in (r'stages\.\d+\.layers\.\d+\.', r'stem\..*')
            ]
            for names in (self.report.sizes, self.found)
        )
        shapes = any(name.startswith(self.home) for name in self.report.wrong_shape)
        if layers == file_layers and not shapes and file_stem <= stem:
            return None
        backbone = next((m for m in self.model.modules() if hasattr(m, 'ARCHITECTURES')), None)
        archs = {} if backbone is None else backbone.ARCHITECTURES
        own = [
            f' This model has {self.options.arch.format(name=name)}.'
            for name, arch in archs.items()
            if arch == backbone.arch
        ]
        perhaps = [
            f' (perhaps {self.options.arch.format(name=name)})'
            for name, arch in archs.items()
            if len(layers) != arch.depth == len(file_layers)
        ]
        return (
            f'The checkpoint is of another arch{"".join(perhaps)}: it has {len(file_layers)} layers and '
            f'{len(file_stem)} tensors in the stem, this model {len(layers)} and {len(stem)}.{"".join(own)}'
        )

    def _scale(self) -> str | None:
        if any(name.endswith('.in_proj.scale') for name in self.report.unexpected):
            return f'It has a learnable attention scale, which {self.options.scale} gives the model.'
        if any(name.endswith('.in_proj.scale') for name in self.report.missing):
            return f'It has no learnable attention scale: {self.options.no_scale}.'
        return None

    def _backbone_alone(self) -> str | None:
        if not self.flat or any(name in self.found and not name.startswith(self.home) for name in self.report.sizes):
            return None
        said = 'It holds a backbone or a classifier, and not the whole model.'
        if self.options.alone is None:
            return said
        return f'{said} Load it into the backbone alone: {self.options.alone.format(part=self.home.removesuffix("."))}.'

    def _heads(self) -> str | None:
        shapes = self.report.wrong_shape
        if not shapes:
            return None
        if any(len(ours) != len(theirs) or ours[1:] != theirs[1:] for ours, theirs in shapes.values()):
            return None
        counts = (
            f': {classes(theirs[0])} in the file, {classes(ours[0])} in the model'
            for name, (ours, theirs) in shapes.items()
            for pattern, classes in _CLASSES.items()
            if re.search(pattern, name)
        )
        said = f'Its head is of other classes{next(counts, "")}.'
        if self.options.differ is None:
            return said
        patterns = sorted({f'{name.rpartition(".")[0]}.*' for name in shapes})
        return (
            f'{said} To fine-tune on other classes, let these layers keep their initial values: '
            f'{self.options.differ.format(patterns=patterns)}.'
        )

    def _rest(self) -> str | None:
        if self.report.unexpected or self.report.wrong_shape:
            return None
        return f"The file is incomplete: {len(self.report.missing)} of the model's tensors are not in it."
