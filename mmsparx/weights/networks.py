"""Identification of a file's network, from the names and shapes of its weights.

A registered backbone with `ARCHITECTURES` is known with all its named sizes. Only those whose channels and layers are
the file's are built, without memory for their weights, to compare the rest.
"""

import re
from collections import defaultdict
from collections.abc import Mapping
from functools import lru_cache

import torch
from torch import Tensor, nn

from mmsparx.registry import MODELS
from mmsparx.weights.names import find_backbones

Shapes = Mapping[str, tuple[int, ...]]

_OF_A_BACKBONE = re.compile(r'(?:stem|stages)\.(?!.*num_batches_tracked$)')
_IN_A_LAYER = re.compile(r'stages\.(\d+)\.layers\.(\d+)\.(.+)')
# Name of an aggregator's learnable scale, which a network of the same sizes may have or not.
LEARNABLE_SCALE = re.compile(r'stages\..*\.mixer\.\w+\.scale$')
# Places of aggregators in mixers; a normal layer has a projection of the same name there, or nothing.
_AGGREGATOR = re.compile(r'mixer\.(?:in_proj|qkv|aggregator)\.(?!(?:weight|bias)$)(.+)')
_REDUCER = re.compile(r'(?:q\.0|reduce)\.0\.weight$')  # its kernel is one wider than its stride
_SOURCE_NORM = {'source_norm.weight': 0, 'norm.weight': 1}  # and how many maps it has besides the sources


def backbone_shapes(state_dict: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Our names and the shapes of the backbone in a file of published names or ours; empty for none or several."""
    places = find_backbones(state_dict)
    if 'backbone.' not in places and len(places) != 1:
        return {}
    place = 'backbone.' if 'backbone.' in places else next(iter(places))
    family = places[place]
    inside = {name.removeprefix(place): x for name, x in state_dict.items() if name.startswith(place)}
    if family.is_published(inside):
        renamed = ((family.to_ours(name), x) for name, x in inside.items())
        inside = {name: family.to_our_value(name, x) for name, x in renamed if name is not None}
    return {name: tuple(x.shape) for name, x in inside.items() if _OF_A_BACKBONE.match(name)}


def identify(shapes: Shapes) -> list[tuple[str, str]]:
    """The named networks that have these weights, as (class, arch).

    The channels of the images, output norms and learnable scales do not matter, nor that last stages are missing: with
    early stages alone there may be several.
    """
    stages = Layers(shapes)
    found = []
    for family in _families():
        for name, arch in family.ARCHITECTURES.items():
            count = len(stages.channels)
            same_size = arch.channels[:count] == stages.channels
            if count and same_size and tuple(plan.depth for plan in arch.stages[:count]) == stages.depths:
                known = _shapes_of(family, arch)
                if _compared(known, family.first_weight, count) == _compared(shapes, family.first_weight, count):
                    found.append((family.__name__, name))
    return found


def _families() -> list[type[nn.Module]]:
    """The registered backbones that have named sizes."""
    return [cls for cls in MODELS.module_dict.values() if isinstance(cls, type) and getattr(cls, 'ARCHITECTURES', None)]


@lru_cache
def _shapes_of(family: type[nn.Module], arch: object) -> dict[str, tuple[int, ...]]:
    with torch.device('meta'):
        state = family(arch, out_indices=(len(arch.stages) - 1,)).state_dict()
    return {name: tuple(x.shape) for name, x in state.items() if _OF_A_BACKBONE.match(name)}


def _compared(shapes: Shapes, first_weight: str, stages: int) -> dict[str, tuple[int, ...]]:
    """The properties that distinguish networks."""
    kept = {}
    for name, shape in shapes.items():
        stage = re.match(r'stages\.(\d+)\.', name)
        if LEARNABLE_SCALE.match(name) or (stage and int(stage[1]) >= stages):
            continue
        kept[name] = (shape[0], *shape[2:]) if name == first_weight else shape
    return kept


class Layers:
    """The layers of a backbone, as its weights show them.

    Attributes:
        stem: The weights of the stem: names and shapes.
        parts: The weights of each layer, by (stage, layer): a dict of names and shapes.
        depths: Number of layers of each stage.
        channels: Channels of each stage, as far as they can be seen.

    Args:
        shapes: Names and shapes of the backbone.
        count: Number of stages to look at; all by default.
    """

    def __init__(self, shapes: Shapes, count: int | None = None):
        self.stem = {name: shape for name, shape in shapes.items() if name.startswith('stem.')}
        self.parts: dict[tuple[int, int], dict[str, tuple[int, ...]]] = defaultdict(dict)
        for name, shape in shapes.items():
            if (match := _IN_A_LAYER.match(name)) and (count is None or int(match[1]) < count):
                self.parts[int(match[1]), int(match[2])][match[3]] = shape
        stages = range(1 + max((stage for stage, _ in self.parts), default=-1))
        self.depths = tuple(sum(stage == i for stage, _ in self.parts) for i in stages)
        self.channels = tuple(self.parts.get((i, 0), {}).get('norm1.weight', (0,))[0] for i in stages)

    def ganglia(self, stage: int) -> tuple[int, ...]:
        """The layers of a stage that have an aggregator."""
        return tuple(
            j for (i, j), parts in sorted(self.parts.items()) if i == stage and any(map(_in_aggregator, parts))
        )

    def sources(self, stage: int, layer: int) -> int | None:
        """Number of sources of a ganglion layer; None if its weights do not show it."""
        for name, shape in self.parts[stage, layer].items():
            if (part := _in_aggregator(name)) in _SOURCE_NORM:
                return shape[0] // self.channels[stage] - _SOURCE_NORM[part]
        return None

    def reduction(self, stage: int) -> int:
        """The stride of the spatial reduction in a stage's aggregators, 1 without."""
        parts = (part for (i, _), parts in self.parts.items() if i == stage for part in parts.items())
        sides = [shape[-1] for name, shape in parts if _REDUCER.match(_in_aggregator(name) or '')]
        return sides[0] - 1 if sides else 1

    def kinds(self) -> dict[str, tuple[str, ...]]:
        """Parts of the layers: their names by their roles."""
        names = {name for parts in self.parts.values() for name in parts}
        inside = {
            'token mixer': (
                n.removeprefix('mixer.') for n in names if n.startswith('mixer.') and not _in_aggregator(n)
            ),
            'aggregator': (part for n in names if (part := _in_aggregator(n)) and part != 'scale'),
            'feed-forward': (n.removeprefix('ffn.') for n in names if n.startswith('ffn.')),
            'position encoding': (n for n in names if n.startswith('position.')),
        }
        return {kind: tuple(sorted({n.partition('.')[0] for n in parts})) for kind, parts in inside.items()}

    def scaled(self) -> tuple[int, ...]:
        """The stages, from 1, whose shortcuts have scales."""
        return tuple(sorted({i + 1 for (i, _), parts in self.parts.items() if 'scale1.weight' in parts}))


def _in_aggregator(name: str) -> str | None:
    """The name within an aggregator of a layer's weight, None if it is not in one."""
    match = _AGGREGATOR.match(name)
    return match and match[1]


def differences(file: Shapes, model: Shapes) -> list[str]:
    """Differences between the backbone of a file and that of a model, as clauses; stages are counted from 1."""
    # A model may have no use for the last stages.
    count = min(len(Layers(shapes).depths) for shapes in (file, model))
    ours, theirs = Layers(model, count), Layers(file, count)
    found = [_differs('channels', theirs.channels, ours.channels), _differs('layers', theirs.depths, ours.depths)]
    # A file that has a part of the model's stem may be incomplete.
    if not theirs.stem.items() <= ours.stem.items():
        found.append(_differs('tensors in the stem', len(theirs.stem), len(ours.stem)))
    there, here = theirs.kinds(), ours.kinds()
    found += [_differs(f'parts of the {kind}', there[kind], here[kind]) for kind in here]
    for i in (i for i in range(count) if ours.depths[i] == theirs.depths[i]):
        ganglia = theirs.ganglia(i)
        found.append(_differs(f'ganglion layers of stage {i + 1}', ganglia, ours.ganglia(i)))
        if ganglia == ours.ganglia(i) and there['aggregator'] == here['aggregator']:
            found += [
                _differs(f'sources of layer {j} in stage {i + 1}', theirs.sources(i, j), ours.sources(i, j))
                for j in ganglia
            ]
            found.append(_differs(f'reduction in stage {i + 1}', theirs.reduction(i), ours.reduction(i)))
    found.append(_differs('stages with shortcut scales', theirs.scaled(), ours.scaled()))
    if not any(found):  # the sizes of parts, which the rest would explain
        found = [_differs(f'shape of {name}', file[name], model[name]) for name in model if name in file]
    return [difference for difference in found if difference]


def _differs(what: str, theirs: object, ours: object) -> str | None:
    """A clause, if the two are not the same."""
    if theirs == ours:
        return None
    theirs, ours = (', '.join(map(str, x)) or 'none' if isinstance(x, tuple) else x for x in (theirs, ours))
    return f'{what}: {theirs} in the file, {ours} in the model'
