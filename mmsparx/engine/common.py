"""Functions of configs, batches and outputs for several modules of the engine."""

import os
import re
from collections.abc import Iterator, Mapping, MutableMapping

from mmengine.structures import BaseDataElement
from torch import Tensor


def is_first_process() -> bool:
    """Whether this is the first process of a run, or its only one, also before the processes have met."""
    ranks = [os.environ[name] for name in ('RANK', 'SLURM_PROCID', 'OMPI_COMM_WORLD_RANK') if name in os.environ]
    return not ranks or ranks[0] == '0'


def type_name(node: object) -> str | None:
    """The type that a node of a config names; it may be a class there, as in pure-Python configs."""
    found = node.get('type') if isinstance(node, Mapping) else None
    name = f'{found.__module__}.{found.__qualname__}' if isinstance(found, type) else found
    return name if isinstance(name, str) else None


def is_of_kind(node: object, kind: str) -> bool:
    """Whether a node of a config builds what a pattern names."""
    name = type_name(node)
    return name is not None and re.fullmatch(kind, name) is not None


def named_dicts(part: object, key: str) -> Iterator[tuple[str, MutableMapping]]:
    """The dicts in a part of a config, with their dotted keys."""
    if isinstance(part, Mapping):
        yield key, part
        inner = part.items()
    else:
        inner = enumerate(part) if isinstance(part, (list, tuple)) else ()
    for name, value in inner:
        yield from named_dicts(value, f'{key}.{name}')


def samples(batch: object) -> Iterator[BaseDataElement]:
    """The data samples in a batch, in order."""
    if isinstance(batch, BaseDataElement):
        yield batch
    elif isinstance(batch, (Mapping, list, tuple)):
        for part in batch.values() if isinstance(batch, Mapping) else batch:
            yield from samples(part)


def named_tensors(tree: object, name: str = '') -> Iterator[tuple[str, Tensor]]:
    """The tensors in nested containers and mmengine's data elements, with dotted names."""
    if isinstance(getattr(tree, 'tensor', None), Tensor):  # mmdet's boxes
        tree = tree.tensor
    if isinstance(tree, Tensor):
        yield name, tree
    elif isinstance(tree, (Mapping, BaseDataElement)):
        for key, value in tree.items():
            yield from named_tensors(value, f'{name}.{key}'.lstrip('.'))
    elif isinstance(tree, (list, tuple)):
        yield from named_tensors(dict(enumerate(tree)), name)


def losses(outputs: Mapping | None) -> dict:
    """The entries of a model's outputs in training that mmengine takes for losses, by their names."""
    return {name: value for name, value in (outputs or {}).items() if 'loss' in str(name)}
