"""Checks of the data that a config names, before a model is built.

Paths are checked wherever they are on this machine. What is in the files is checked where the format is known:
annotations in COCO's format, of mmdet's `CocoDataset` and `CocoMetric`, mmpretrain's folders of classes, and mmseg's
pairs of images and label maps.
"""

import inspect
import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.registry import DATASETS, METRICS, Registry

from mmsparx.annotations.classes import check_classes
from mmsparx.annotations.coco import CocoFile, check_coco
from mmsparx.annotations.findings import Findings, Kind
from mmsparx.annotations.folders import EXTENSIONS, check_folders, check_same_folders
from mmsparx.annotations.label_maps import check_pairs
from mmsparx.engine.common import is_first_process, is_of_kind, named_dicts

# They are given by their full names, since mmdet and mmpretrain need not be installed.
_COCO = 'mmdet.datasets.coco.CocoDataset'
# Subclasses of it whose files are in other formats.
_NOT_COCO = ('mmdet.datasets.coco_panoptic.CocoPanopticDataset', 'mmdet.datasets.lvis.LVISV05Dataset')
_SORTED_BY_ID = 'mmdet.datasets.objects365.Objects365V1Dataset'
_COCO_METRIC = 'mmdet.evaluation.metrics.coco_metric.CocoMetric'
_FOLDERS = 'mmpretrain.datasets.custom.CustomDataset'
_SEGMENTATION = 'mmseg.datasets.basesegdataset.BaseSegDataset'

_OTHER_IMAGES = Kind(
    'images of the dataset are not in the annotation file of its evaluator',
    'Name the file of the dataset in both.',
)

OPTION = '--annotation-faults'


def check_data(cfg: Config, loaders: tuple[str, ...], faults: str = 'error') -> None:
    """Fail before a model is built where data is missing, or annotations would crash the run or corrupt its result.

    What is behind a storage backend (`backend_args`, addresses) is left to it; a line in the log says so. Of several
    processes the first one looks into files.

    Args:
        cfg: Config of a run.
        loaders: Names of the loaders that will run, among `train_dataloader`, `val_dataloader` and `test_dataloader`.
        faults: Action on faults in annotations: 'error' ends the run, 'warn' continues, 'ignore' skips the check.

    Raises:
        FileNotFoundError: A path is missing; the message has the setting that holds it.
        ValueError: Annotations have faults.
    """
    sources = [source for loader in loaders for source in _sources(cfg, loader)]
    for source in sources:
        source.check_paths()
    if faults == 'ignore' or not is_first_process():
        return
    found = list(_look_into(cfg, sources))
    if text := '\n'.join(filter(None, (each.text(is_error=False) for each in found))):
        print_log(f'annotations may not be as they should be:\n{text}', logger='current', level=logging.WARNING)
    if text := '\n'.join(filter(None, (each.text(is_error=True) for each in found))):
        if faults == 'error':
            raise ValueError(f'annotations have faults:\n{text}\nCorrect them, or go on with {OPTION} warn')
        print_log(f'{OPTION} warn: annotations have faults:\n{text}', logger='current', level=logging.WARNING)


@dataclass
class _Source:
    """A place in a config that names data: a dataset, or a metric with an annotation file.

    Args:
        key: Setting.
        node: Its config.
        cls: Class of the dataset or metric, if it is known.
        loader: Name of the loader that it belongs to.
        root: Folder that its paths are relative to, as the config names it.
        paths: Local paths, by the names of their settings.
    """

    key: str
    node: Mapping
    cls: type | None
    loader: str
    root: str = ''
    paths: dict[str, str] = field(default_factory=dict)

    def is_a(self, *names: str) -> bool:
        return self.base(*names) is not None

    def base(self, *names: str) -> type | None:
        """The first of its classes that has one of these full names."""
        classes = self.cls.__mro__ if self.cls else ()
        return next((each for each in classes if f'{each.__module__}.{each.__qualname__}' in names), None)

    def check_paths(self) -> None:
        """Look for the paths that are local."""
        for name, path in self.paths.items():
            if os.path.exists(path):
                continue
            if self.root:
                link = self.root.rstrip('/')
                advice = f'set {self.key}.data_root with --cfg-options'
            else:
                link, advice = path, f'set {self.key}.{name} with --cfg-options'
            raise FileNotFoundError(
                f'{self.key}: {path} does not exist. Link the data into the working directory, as in '
                f'"ln -s /where/it/is {link}", or {advice}'
            )


def _sources(cfg: Config, loader: str) -> Iterator[_Source]:
    """The datasets of a loader and the metrics of its evaluator that name files."""
    for key, dataset in _datasets(cfg.get(loader), f'{loader}.dataset'):
        root = dataset.get('data_root') or ''
        prefixes = dataset.get('data_prefix') or {}
        prefixes = {'data_prefix': prefixes} if isinstance(prefixes, str) else prefixes
        parts = {'ann_file': dataset.get('ann_file'), **prefixes, 'data_root': ''}
        # An annotation file is read by the dataset's backend, images by that of the transform that reads them.
        of_dataset = _is_local(dataset)
        of_images = all(_is_local(part) for _, part in named_dicts(dataset.get('pipeline'), ''))
        local = {name: of_dataset if name == 'ann_file' else of_images for name in parts}
        local['data_root'] = of_dataset and of_images
        yield _Source(key, dataset, _class_of(cfg, DATASETS, dataset), loader, root, _local(key, root, parts, local))
    evaluator = loader.replace('_dataloader', '_evaluator')
    for key, metric in named_dicts(cfg.get(evaluator), evaluator) if cfg.get(loader) else ():
        if 'ann_file' in metric:
            paths = _local(key, '', {'ann_file': metric['ann_file']}, {'ann_file': _is_local(metric)})
            yield _Source(key, metric, _class_of(cfg, METRICS, metric), loader, '', paths)


def _local(key: str, root: str, parts: Mapping, local: Mapping[str, bool]) -> dict[str, str]:
    """The paths that are on this machine, by their names; a line in the log says which others are not looked at."""
    paths = {}
    for name, part in parts.items():
        path = os.path.join(root, part) if isinstance(part, str) else ''
        if not path or (not part and name != 'data_root'):
            continue
        if '://' in path or not local[name]:
            print_log(f'{key}: {path} is behind a storage backend, and is not checked', logger='current')
        else:
            paths[name] = path
    return paths


def _is_local(node: Mapping) -> bool:
    """Whether what a dataset, a transform or a metric reads is on this machine."""
    given = [node.get(name) for name in ('backend_args', 'file_client_args')]  # the latter is the older name
    return all(args.get('backend', 'local') in ('local', 'disk') for args in given if isinstance(args, Mapping))


def _datasets(loader: Mapping | None, key: str) -> Iterator[tuple[str, Mapping]]:
    """The innermost dataset configs of a loader, with their keys; wrappers hold one or several."""
    pending = [(key, loader.get('dataset'))] if loader else []
    while pending:
        key, dataset = pending.pop()
        if not isinstance(dataset, Mapping):
            continue
        inner = dataset.get('dataset')
        several = dataset.get('datasets')
        if inner is None and several is None:
            yield key, dataset
        pending += [(f'{key}.dataset', inner)] if inner is not None else []
        pending += [(f'{key}.datasets.{i}', each) for i, each in enumerate(several or ())]


def _class_of(cfg: Config, registry: Registry, node: Mapping) -> type | None:
    """The class that a node of a config builds; None for what is not registered, of which building it will speak."""
    kind = node.get('type')
    if not isinstance(kind, str):
        return kind if isinstance(kind, type) else None
    with registry.switch_scope_and_registry(cfg.get('default_scope')) as scoped:
        found = scoped.get(kind)
    return found if isinstance(found, type) else None


def _look_into(cfg: Config, sources: list[_Source]) -> Iterator[Findings]:
    """The faults of the contents, file by file."""
    checked: dict[tuple, CocoFile] = {}  # a file may be of several loaders, and of their evaluators
    for loader in dict.fromkeys(source.loader for source in sources):
        own = [source for source in sources if source.loader == loader]
        metrics = [source for source in own if source.is_a(_COCO_METRIC)]
        masks = _uses_masks(cfg, loader, metrics)
        annotated = not any(metric.node.get('format_only') for metric in metrics)
        files: list[tuple[_Source, CocoFile]] = []
        for source in own:
            if 'ann_file' in source.paths and _is_coco(source):
                path = source.paths['ann_file']
                case = os.path.realpath(path), masks, annotated
                if case not in checked:
                    checked[case] = check_coco(path, masks, annotated)
                    yield checked[case].findings
                files.append((source, checked[case]))
            elif _has_class_folders(source):
                yield _look_into_folders(cfg, source)
            elif (pairs := _pairs_of(source)) is not None:
                yield check_pairs(*pairs)
        measured = [file for source, file in files if source in metrics]
        for source, file in files:
            if source not in metrics:
                yield from _compare_with_classes(source, file, measured)


def _is_coco(source: _Source) -> bool:
    return source.is_a(_COCO_METRIC) or (source.is_a(_COCO) and not source.is_a(*_NOT_COCO))


def _uses_masks(cfg: Config, loader: str, metrics: list[_Source]) -> bool:
    measured = any('segm' in metric.node.get('metric', 'bbox') for metric in metrics)
    return measured or any(part.get('with_mask') for _, part in named_dicts(cfg.get(loader), loader))


def _compare_with_classes(source: _Source, file: CocoFile, measured: list[CocoFile]) -> Iterator[Findings]:
    """Classes of a dataset and categories of its file, and of its evaluator's if that is another one."""
    metainfo = source.node.get('metainfo')
    classes = source.cls._load_metainfo(metainfo).get('classes')
    for each in [file, *(other for other in measured if other is not file)]:
        findings = Findings(each.findings.source)
        categories = dict(sorted(each.categories.items())) if source.is_a(_SORTED_BY_ID) else each.categories
        if classes is not None:
            check_classes(findings, classes, categories, source.key, is_default='classes' not in (metainfo or ()))
        if each is not file and each.image_ids:
            for image in sorted(file.image_ids - each.image_ids):
                findings.add(_OTHER_IMAGES, f'{source.key} (its file is {file.findings.source})', f'image {image}')
        yield findings


def _has_class_folders(source: _Source) -> bool:
    base, node = source.base(_FOLDERS), source.node
    if base is None or node.get('ann_file') or not node.get('with_label', True) or node.get('split') == 'test':
        return False
    if source.cls.load_data_list is not base.load_data_list or source.cls._find_samples is not base._find_samples:
        return False
    listed = os.path.join(source.root, 'meta', f'{node.get("split")}.txt')  # mmpretrain's ImageNet prefers it
    return _folder_of(source) is not None and not os.path.exists(listed)


def _folder_of(source: _Source) -> str | None:
    """The folder of the folders of classes, where it is local."""
    given = next((source.paths[name] for name in ('img_path', 'data_prefix') if name in source.paths), None)
    if given is None and 'data_root' in source.paths and not source.node.get('data_prefix'):
        given = os.path.join(source.root, source.node.get('split') or '')
    return given if given is not None and os.path.isdir(given) else None


def _pairs_of(source: _Source) -> tuple[str, str, str, str] | None:
    """Folders of images and label maps, and what names in them end with, of a dataset that pairs them by names."""
    base, node = source.base(_SEGMENTATION), source.node
    folders = [source.paths.get(name) for name in ('img_path', 'seg_map_path')]
    if base is None or node.get('ann_file') or source.cls.load_data_list is not base.load_data_list or None in folders:
        return None
    if not any(is_of_kind(part, r'([\w.]+\.)?LoadAnnotations') for _, part in named_dicts(node.get('pipeline'), '')):
        return None
    parameters = inspect.signature(source.cls).parameters
    suffixes = (
        node.get(name, parameters[name].default if name in parameters else default)
        for name, default in (('img_suffix', '.jpg'), ('seg_map_suffix', '.png'))
    )
    return *folders, *suffixes


def _look_into_folders(cfg: Config, source: _Source) -> Findings:
    node = source.node
    classes = source.cls._load_metainfo(node.get('metainfo')).get('classes')
    extensions = [ending.lower() for ending in node.get('extensions') or EXTENSIONS]
    folders = check_folders(_folder_of(source), extensions, node.get('classes') or classes, source.key)
    if source.loader != 'train_dataloader':
        training = [each for each in _sources(cfg, 'train_dataloader') if _has_class_folders(each)]
        if len(training) == 1:
            check_same_folders(_folder_of(training[0]), folders)
    return folders.findings
