"""Causes of a mismatch between a checkpoint and a model, from names and shapes, and fixes."""

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor, nn

from mmsparx.weights.names import find_backbones
from mmsparx.weights.networks import LEARNABLE_SCALE, backbone_shapes, differences, identify
from mmsparx.weights.report import LoadReport, shorten

# Layers with an output per class, and how many classes so many outputs are.
_CLASSES = {
    r'(^|\.)fc_cls\.': lambda outputs: outputs - 1,  # and the background
    r'(^|\.)(head\.fc|conv_logits|conv_seg)\.': lambda outputs: outputs,
}
# Parts that torch keeps of a weight that is computed from others, and how they become one weight again.
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


_DIFFERENCES = 4  # number of differences in a message
_PARTS = 4  # most parts that only one of the two has, before they count as different networks


def _network(family: str, arch: str, same_family: bool) -> str:
    return f'arch={arch!r}' if same_family else f'{family}(arch={arch!r})'


@dataclass(frozen=True)
class Options:
    """Names of options in messages, for users of `load_pretrained`, `init_cfg` and configs.

    Attributes:
        network: Function of a network's class, its arch, and whether the model is of that class, to how it is built.
        channels: Option that fits a stem of RGB images.
        in_channels: Option of the images' channels.
        scale: Option that gives the network a learnable attention scale.
        no_scale: Option that gives it none.
        prefix: Option that loads names that begin with {prefix}; None where there is no such option.
        alone: Sentence that says how the backbone of a model, {part}, is loaded alone, with {prefix} as a further
            option of init_cfg; None where that is no help.
        differ: Function of patterns of names to how these are let differ, a sentence's end or lines; None where they
            may not.
        start: Whether parts of the model may start from initial values, as in training.
    """

    network: Callable[[str, str, bool], str] = _network
    channels: str = "adapt_channels=True in init_cfg=dict(type='Pretrained', ...) or load_pretrained(...)"
    in_channels: str = 'in_channels'
    scale: str = 'aggregator=dict(..., learnable_scale=True)'
    no_scale: str = 'leave learnable_scale=True out of the aggregator'
    prefix: str | None = 'prefix={prefix!r}'
    alone: str | None = (
        'Load it into the backbone alone: load_pretrained(model.{part}, ...), or '
        "init_cfg=dict(type='Pretrained', checkpoint=...{prefix}) of the backbone"
    )
    differ: Callable[[Sequence[str]], str] | None = ' may_differ={}.'.format
    start: bool = True


@dataclass
class Mismatch:
    """A checkpoint that does not match a model.

    Attributes:
        report: Report of the names that do not match.
        model: Model that the weights were meant for.
        home: Prefix of its backbone's names; None if it has none that is known, or several.
        own: The model's weights, by its names.
        found: The checkpoint's weights, as far as possible by the model's names.
        file: The checkpoint's weights, by its own names.
        options: Spelling of the options that help.
    """

    report: LoadReport
    model: nn.Module
    home: str | None
    own: Mapping[str, Tensor]
    found: Mapping[str, Tensor]
    file: Mapping[str, Tensor]
    options: Options

    def likely_cause(self) -> str:
        """The probable cause, and a fix."""
        of_backbone = (
            self._another_network,
            self._no_backbone,
            self._channels,
            self._another_arch,
        )
        guesses = (
            self._computed,
            *(of_backbone if self.home is not None else ()),
            self._backbone_alone,
            *((self._scale,) if self.home is not None else ()),
            self._heads,
            self._parts,
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
        there = sorted(find_backbones(self.file))
        if not there:
            if not self.file:
                return 'It holds no weights at all.'
            return f"None of its names is a SparX backbone's; they begin with: {shorten(self.file)}."
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

    @cached_property
    def _shapes(self) -> tuple[dict[str, tuple[int, ...]], dict[str, tuple[int, ...]]]:
        """Names and shapes of the backbone, in the file and in the model."""
        own = {name.removeprefix(self.home): x for name, x in self.own.items() if name.startswith(self.home)}
        return backbone_shapes(self.file), backbone_shapes(own)

    def _another_network(self) -> str | None:
        """The file is of another network that has a name."""
        theirs, ours = (identify(shapes) for shapes in self._shapes)
        if not theirs or set(theirs) & set(ours):
            return None
        own = type(self.model.get_submodule(self.home.removesuffix('.'))).__name__
        family, arch = next((network for network in theirs if network[0] == own), theirs[0])
        here = ' or '.join(f'{cls} {name!r}' for cls, name in ours) or f'a {own} of no named arch'
        return (
            f'The file is of {family} {arch!r}, and this model is {here}. '
            f'Build the model with {self.options.network(family, arch, family == own)}.'
        )

    def _another_arch(self) -> str | None:
        if not (found := differences(*self._shapes)):
            return None
        more = f'; and {len(found) - _DIFFERENCES} more' if len(found) > _DIFFERENCES else ''
        return f'The file is of another network; {"; ".join(found[:_DIFFERENCES])}{more}.'

    def _scale(self) -> str | None:
        unexpected, missing = (
            [name for name in names if LEARNABLE_SCALE.match(name.removeprefix(self.home))]
            for names in (self.report.unexpected, self.report.missing)
        )
        if unexpected:
            return f'It has a learnable attention scale, which {self.options.scale} gives the model.'
        if missing:
            return f'It has no learnable attention scale: {self.options.no_scale}.'
        return None

    def _backbone_alone(self) -> str | None:
        """The case of a file that only has the backbone of a model, as files of classifiers and other tasks do."""
        place = 'backbone.' if self.home is None else self.home
        inside = [name for name in self.report.sizes if name.startswith(place)]
        outside = [name for name in self.report.sizes if not name.startswith(place)]
        if not outside or any(name in self.found for name in outside):
            return None
        if not any(name in self.found for name in inside):
            return None
        said = (
            f"Of the model's parts it holds {place.removesuffix('.')} alone, as the file of a backbone, a classifier "
            'or a model of another task does.'
        )
        if self.options.alone is None:
            return said
        prefix = '' if self.home else f', prefix={place!r}'  # our own is found without it
        return f'{said} {self.options.alone.format(part=place.removesuffix("."), prefix=prefix)}.'

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
        parts = [] if self._other_parts is None else [part for parts in self._other_parts for part in parts]
        if parts:
            said += f' One of the two lacks {", ".join(parts)}.'
        layers = {name.rpartition('.')[0] for name in shapes}
        aim = 'To fine-tune on other classes, let these layers keep their initial values'
        return said + self._let_differ({*layers, *parts}, aim)

    def _parts(self) -> str | None:
        """The file, or the model, has whole parts besides what they have in common, such as an auxiliary head."""
        if self.report.wrong_shape or not self.report.matched or self._other_parts is None:
            return None
        extra, lacking = self._other_parts
        said = []
        if extra:
            all_of_it = '' if lacking else ', and all that the model has'
            said.append(f'The file has {_counted(extra)}, which the model lacks{all_of_it}.')
        if lacking:
            said.append(f'The file is incomplete: of all that the model has it lacks {_counted(lacking)}.')
        aims = {(True, False): 'To leave that out', (False, True): 'To start there from initial values'}
        aim = aims.get((bool(extra), bool(lacking)), 'To leave the one out, and start the other from initial values')
        return ' '.join(said) + self._let_differ({*extra, *lacking}, aim, starts=bool(lacking))

    @cached_property
    def _other_parts(self) -> tuple[Counter[str], Counter[str]] | None:
        """Parts outside of the backbone that the file alone has, and those of the model; None where it is not parts."""
        place = 'backbone.' if self.home is None else self.home
        report = self.report
        extra, lacking = _whole_parts(report.unexpected, self.own), _whole_parts(report.missing, self.found)
        inside = any(name.startswith(place) for name in (*report.unexpected, *report.missing))
        if inside or extra is None or lacking is None or len(extra | lacking) > _PARTS:
            return None
        return extra, lacking

    def _let_differ(self, layers: Iterable[str], aim: str, starts: bool = True) -> str:
        """The option that lets names within these layers differ, if they may."""
        if self.options.differ is None:
            return ''
        if starts and not self.options.start:
            return ' Take the config that the file was trained with.'
        return f' {aim}:{self.options.differ(sorted(f"{layer}.*" for layer in layers))}'

    def _rest(self) -> str | None:
        if self.report.unexpected or self.report.wrong_shape:
            return None
        return f"The file is incomplete: {len(self.report.missing)} of the model's tensors are not in it."


def _whole_parts(names: Collection[str], others: Iterable[str]) -> Counter[str] | None:
    """The modules that hold these names and no other one, with their numbers of names; None where a name is in none."""
    common = {other[:i] for other in others for i, letter in enumerate(other) if letter == '.'}
    parts: Counter[str] = Counter()
    for name in names:
        places = (name[:i] for i, letter in enumerate(name) if letter == '.')
        part = next((place for place in places if place not in common), None)
        if part is None:
            return None
        parts[part] += 1
    return parts


def _counted(parts: Mapping[str, int]) -> str:
    """Parts with their numbers of tensors."""
    return ', '.join(f'{part} ({count} {"tensors" if count > 1 else "tensor"})' for part, count in parts.items())
