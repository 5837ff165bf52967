"""Names and colours of classes: as a checkpoint has them, or else the test set of a config."""

from collections.abc import Mapping
from typing import Any

from mmengine.config import Config
from mmengine.registry import DATASETS

# Keys of a checkpoint's meta data, of OpenMMLab's libraries of version 2, and of version 1.
_KEYS = ('classes', 'palette'), ('CLASSES', 'PALETTE')


def classes_of(cfg: Config, meta: Mapping | None) -> dict[str, Any]:
    """Names of the classes, and colours where they are known: the checkpoint's, or else those of the config's test set.

    Empty where neither names any.

    Args:
        cfg: Config, in whose scope types are looked up.
        meta: Meta data of the checkpoint; None without any.
    """
    return _of_checkpoint(meta) or of_dataset(cfg)


def names_classes(meta: Mapping | None) -> bool:
    """Whether the meta data of a checkpoint names classes."""
    return bool(_of_checkpoint(meta))


def of_dataset(cfg: Config) -> dict[str, Any]:
    """Names of classes, and colours where they are known, of a config's test set; empty where it has no names."""
    dataset = cfg.get('test_dataloader', {}).get('dataset', {})
    while 'type' not in dataset and 'dataset' in dataset:
        dataset = dataset['dataset']
    kind = dataset.get('type')
    if isinstance(kind, str):
        with DATASETS.switch_scope_and_registry(None) as registry:
            kind = registry.get(kind)
    return _known({**(getattr(kind, 'METAINFO', None) or {}), **(dataset.get('metainfo') or {})})


def _of_checkpoint(meta: Mapping | None) -> dict[str, Any]:
    meta = meta or {}
    return _known(meta.get('dataset_meta') or {}) or _known(meta)


def _known(meta: Mapping) -> dict[str, Any]:
    for classes, palette in _KEYS:
        names = meta.get(classes)
        if names and not isinstance(names, str):  # a string is the name of a file
            colours = meta.get(palette)
            return {'classes': tuple(names), **({'palette': colours} if colours else {})}
    return {}
