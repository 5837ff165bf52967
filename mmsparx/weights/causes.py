"""Why a checkpoint does not match a model: guesses from names and shapes."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from mmsparx.weights.names import backbone_prefixes
from mmsparx.weights.report import LoadReport, shorten

# Layers with an output per class, and how many classes so many outputs are.
_CLASSES = {
    r'(^|\.)fc_cls\.': lambda outputs: outputs - 1,  # and the background
    r'(^|\.)(head\.fc|conv_logits|conv_seg)\.': lambda outputs: outputs,
}


@dataclass
class Mismatch:
    """A checkpoint that does not match a model.

    Attributes:
        report: what does not match.
        model: that the weights were meant for.
        home: the prefix of its SparX backbone's names; None if it has none, or several.
        found: the checkpoint's weights, as far as possible by the model's names.
        names: all names of the checkpoint, as they are in it.
        flat: whether these are a backbone's or a classifier's, and the model is more than a backbone.
    """

    report: LoadReport
    model: nn.Module
    home: str | None
    found: Mapping[str, Tensor]
    names: Collection[str]
    flat: bool

    def likely_cause(self) -> str:
        """What may be the cause, and what helps."""
        of_backbone = (self._no_backbone, self._another_arch, self._scale) if self.home is not None else ()
        guesses = (*of_backbone, self._backbone_alone, self._heads, self._rest)
        causes = (guess() for guess in guesses)
        return next((cause for cause in causes if cause), 'The checkpoint is of another network, or incomplete.')

    def _no_backbone(self) -> str | None:
        there = backbone_prefixes(self.names)
        if not there:
            return f"None of its names is a SparX backbone's; they begin with: {shorten(self.names)}."
        if self.home in backbone_prefixes(self.found):
            return None
        fits = there[0].endswith(self.home)
        return f'The names of the SparX backbone in it begin with {there[0]!r}' + (
            f'; try prefix={there[0].removesuffix(self.home)!r}.' if fits else f', and in the model with {self.home!r}.'
        )

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
        archs = next((m.ARCHITECTURES for m in self.model.modules() if hasattr(m, 'ARCHITECTURES')), {})
        perhaps = [
            f' (perhaps {name!r})' for name, arch in archs.items() if len(layers) != arch.depth == len(file_layers)
        ]
        return (
            f'The checkpoint is of another arch{"".join(perhaps)}: it has {len(file_layers)} layers and '
            f'{len(file_stem)} tensors in the stem, this model {len(layers)} and {len(stem)}.'
        )

    def _scale(self) -> str | None:
        if any(name.endswith('.in_proj.scale') for name in self.report.unexpected):
            return (
                'It has a learnable attention scale, which aggregator=dict(..., learnable_scale=True) gives the model.'
            )
        if any(name.endswith('.in_proj.scale') for name in self.report.missing):
            return 'It has no learnable attention scale: leave learnable_scale=True out of the aggregator.'
        return None

    def _backbone_alone(self) -> str | None:
        if not self.flat or any(name in self.found and not name.startswith(self.home) for name in self.report.sizes):
            return None
        return (
            'It holds a backbone or a classifier, and not the whole model. Load it into the backbone alone: '
            f'load_pretrained(model.{self.home.removesuffix(".")}, ...), or init_cfg=dict(type="Pretrained", '
            'checkpoint=...) of the backbone.'
        )

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
        patterns = sorted({f'{name.rpartition(".")[0]}.*' for name in shapes})
        return (
            f'Its head is of other classes{next(counts, "")}. To fine-tune on other classes, let these layers keep '
            f'their initial values: may_differ={patterns}.'
        )

    def _rest(self) -> str | None:
        if self.report.unexpected or self.report.wrong_shape:
            return None
        return f"The file is incomplete: {len(self.report.missing)} of the model's tensors are not in it."
