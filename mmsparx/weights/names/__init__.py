"""Parameter names: those of published checkpoints and ours, by family of networks. Pure Python.

A backbone names the `NameMap` of its family as `weight_names`. Names are only translated in the place of such a
backbone.
"""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from mmsparx.weights.names.base import NameMap
from mmsparx.weights.names.sparx import SPARX
from mmsparx.weights.names.vmamba import VMAMBA

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    'FAMILIES',
    'SPARX',
    'VMAMBA',
    'NameMap',
    'convert_names',
    'convert_value',
    'find_backbones',
    'is_published_of',
]

# Our names of the two are alike but for what VMAMBA looks for, so it comes last and is the one that is found.
FAMILIES: tuple[NameMap, ...] = (SPARX, VMAMBA)


def find_backbones(names: Iterable[str]) -> dict[str, NameMap]:
    """Prefixes and families of the known backbones in a file: {'backbone.': SPARX} in most."""
    names = list(names)
    return {prefix: family for family in FAMILIES for prefix in family.prefixes(names)}


def is_published_of(family: NameMap, names: Iterable[str]) -> bool:
    """Whether names within a backbone are published ones of a family.

    Families have many of these names in common. Names that only another one has decide against it.
    """
    names = list(names)
    if not family.is_published(names):
        return False
    return '' in family.prefixes(names) or not any('' in other.prefixes(names) for other in FAMILIES)


def convert_names(names: Iterable[str], to: str) -> dict[str, str]:
    """Each name of a file -> its name in the other style, in order; names of that style stay.

    A classifier's file is flat under the published names; under ours its backbone's names begin with `backbone.`. In
    the files of other models, what is outside of the backbone stays.

    Args:
        names: Names of the file.
        to: Style of the names, 'ours' or 'published'.

    Raises:
        ValueError: no known backbone is among them, or some of its names have no counterpart; these are listed.
    """
    if to not in ('ours', 'published'):
        raise ValueError(f"to: expected 'ours' or 'published', got {to!r}")
    names = list(names)
    backbones = find_backbones(names)
    if not backbones:
        raise ValueError(f'no SparX backbone is in the file; its names begin with: {", ".join(names[:4])}')
    outside = {name for name in names if not name.startswith(tuple(backbones))}
    backbones = {
        prefix: family
        for prefix, family in backbones.items()
        if family.is_published(_within(names, prefix)) != (to == 'published')
    }
    if not backbones:
        return {name: name for name in names}
    family = next(iter(backbones.values()))
    if to == 'published' and list(backbones) == ['backbone.'] and outside == family.head:
        backbones, inside = {'': family}, {name: name.removeprefix('backbone.') for name in names}
    else:
        inside = {name: name for name in names}
    renamed = _rename(inside, backbones, to)
    if to == 'ours' and list(backbones) == [''] and family.head & set(renamed.values()):
        return {name: new if new in family.head else f'backbone.{new}' for name, new in renamed.items()}
    return renamed


def _within(names: Iterable[str], prefix: str) -> list[str]:
    return [name.removeprefix(prefix) for name in names if name.startswith(prefix)]


def convert_value(families: Iterable[NameMap], name: str, value: 'Tensor', to: str) -> 'Tensor':
    """A tensor of a file whose names `convert_names` has given, in the shape that goes with its new name.

    Args:
        families: Families of the file's backbones.
        name: New name of the tensor.
        value: Tensor as it is in the file.
        to: Style of the names, as for `convert_names`.
    """
    for family in families:
        value = family.to_our_value(name, value) if to == 'ours' else family.to_published_value(name, value)
    return value


def _rename(inside: Mapping[str, str], backbones: Mapping[str, NameMap], to: str) -> dict[str, str]:
    """Translate what is under the prefixes of backbones; `inside` has each name as it is to be read."""
    renamed, taken, lost = {}, set(), []
    for name, read in inside.items():
        prefix = next((prefix for prefix in backbones if read.startswith(prefix)), None)
        if prefix is None:
            renamed[name] = name
            continue
        there, back = backbones[prefix].to_ours, backbones[prefix].to_published
        if to == 'published':
            there, back = back, there
        within = read.removeprefix(prefix)
        new = there(within)
        spelling = backbones[prefix].spelling(within) if to == 'ours' else within
        if new is None or back(new) != spelling or prefix + new in taken:
            lost.append(name)
        else:
            renamed[name] = prefix + new
            taken.add(prefix + new)
    if lost:
        raise ValueError(f'{len(lost)} names have no counterpart among {to} names: {", ".join(lost)}')
    return renamed
