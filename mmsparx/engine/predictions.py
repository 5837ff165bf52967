"""Files that a test writes of its predictions besides metrics: images, and a pickle file."""

import logging
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import mmcv
import numpy as np
import torch
from mmengine import fileio
from mmengine.config import Config
from mmengine.dist import get_world_size, master_only
from mmengine.evaluator import DumpResults
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement
from mmengine.visualization import Visualizer
from torch import Tensor

from mmsparx.engine.common import is_of_kind
from mmsparx.engine.outputs import check_outside, check_results, check_writable

# The visualization hooks of the libraries, and how their visualizers draw.
KNOWN_HOOKS = {
    ('mmdet', 'DetVisualizationHook'): 'add_datasample',
    ('mmseg', 'SegVisualizationHook'): 'add_datasample',
    ('mmpretrain', 'VisualizationHook'): 'visualize_cls',
}
# Arguments of these hooks that do not change the drawing; all others do.
_NOT_OF_DRAWING = ('type', 'draw', 'enable', 'interval', 'show', 'wait_time', 'test_out_dir', 'out_dir')

# Our visualizer, of the same arguments as mmdet's, gives every mask the colour of its class.
_DET_VISUALIZER = r'(mmdet\.([\w.]+\.)?)?DetLocalVisualizer'
DET_VISUALIZER = 'mmsparx.engine.det_visualizer.ClassColourVisualizer'

# Detections of any class that overlap by more than this (IoU) are of one object as a rule, and their labels are drawn
# over each other.
MAX_OVERLAP = 0.6


@dataclass(frozen=True)
class Drawing:
    """Choice of the detections that are drawn.

    Attributes:
        score_thr: Score that drawn detections exceed.
        max_overlap: Overlap (IoU) up to which boxes are drawn beside each other; see `without_doubles`.
    """

    score_thr: float = 0.3
    max_overlap: float = MAX_OVERLAP


# Large entries that are not the prediction: the scores of each class at each pixel, and annotations.
_LEFT_OUT = ('seg_logits', 'gt_sem_seg', 'gt_instances', 'ignored_instances')


def draw_predictions(cfg: Config, folder: str) -> None:
    """Let the test of a config draw every image, by `DrawPredictionsHook` in place of its visualization hook.

    Args:
        cfg: Config of mmdet, mmseg or mmpretrain, which is changed in place. The drawing options of its hook, such as
            `score_thr`, are kept.
        folder: Folder to draw into.

    Raises:
        ValueError: The config has no visualization hook, or one of another kind.
    """
    hook = cfg.get('default_hooks', {}).get('visualization')
    if hook is None:
        raise ValueError('--show-dir: the config has no default_hooks.visualization to draw with')
    for (library, name), method in KNOWN_HOOKS.items():
        if is_of_kind(hook, rf'({library}\.([\w.]+\.)?)?{name}'):
            settings = {key: value for key, value in hook.items() if key not in _NOT_OF_DRAWING}
            if 'score_thr' in settings:
                settings['pred_score_thr'] = settings.pop('score_thr')
            new = dict(type=_path_of(DrawPredictionsHook), out_dir=folder, method=method, **settings)
            cfg.default_hooks['visualization'] = new
            use_class_colours(cfg)
            return
    known = ', '.join(f'{library}.{name}' for library, name in KNOWN_HOOKS)
    found = hook.get('type') if isinstance(hook, Mapping) else hook
    raise ValueError(f'--show-dir: expected default_hooks.visualization to be one of {known}, got {found}')


def use_class_colours(cfg: Config) -> None:
    """Let a config draw by `ClassColourVisualizer`, if it draws by mmdet's visualizer. Changed in place."""
    if is_of_kind(cfg.get('visualizer'), _DET_VISUALIZER):
        cfg.visualizer['type'] = DET_VISUALIZER


def without_doubles(sample: BaseDataElement, max_overlap: float = MAX_OVERLAP) -> BaseDataElement:
    """A detector's sample as it is drawn: of predicted boxes that overlap, whatever their classes, the best alone.

    A detector suppresses within each class. What it takes for several classes at once is drawn several times, and the
    labels hide each other.

    Args:
        sample: Data sample, which stays as it is; one without predicted boxes is returned.
        max_overlap: Overlap (IoU) up to which boxes are drawn beside each other; 1 for all boxes.

    Returns:
        A copy of the sample with fewer predicted instances.
    """
    found = sample.get('pred_instances')
    if max_overlap >= 1 or found is None or 'bboxes' not in found or found.bboxes.shape[-1] != 4:  # rotated boxes
        return sample
    from mmcv.ops import nms

    _, kept = nms(found.bboxes.float(), found.scores.float(), iou_threshold=max_overlap)
    drawn = sample.new()
    drawn.pred_instances = found[kept.sort().values]
    return drawn


def dump_predictions(cfg: Config, file: str) -> None:
    """Let the test of a config write its predictions to a file, by `DumpPredictions`.

    Args:
        cfg: Config, which is changed in place.
        file: Name of the pickle file.

    Raises:
        ValueError: The name is not that of a pickle file, or it is the checkpoint's.
        OSError: The folder of the file cannot be written to.
    """
    if not file.endswith(('.pkl', '.pickle')):
        raise ValueError(f'--out: expected a name that ends in .pkl or .pickle, got {file!r}')
    if os.path.isdir(file):
        raise ValueError(f'--out: expected the name of a file, got the folder {file}')
    checkpoint = cfg.get('load_from') or ''
    if os.path.exists(file) and os.path.exists(checkpoint) and os.path.samefile(file, checkpoint):
        raise ValueError(f'--out: {file} is the checkpoint, and would be overwritten. Name another file')
    check_writable(os.path.dirname(file) or '.', '--out')
    metrics = cfg.test_evaluator if isinstance(cfg.test_evaluator, list) else [cfg.test_evaluator]
    cfg.test_evaluator = [*metrics, dict(type=_path_of(DumpPredictions), out_file_path=file)]


def _path_of(cls: type) -> str:
    """A class's path, by which mmengine finds it from any scope, registered or not, also in a dumped config."""
    return f'{cls.__module__}.{cls.__qualname__}'


class DrawPredictionsHook(Hook):
    """Draw each image of a test with what is predicted, as the task's library draws it.

    In place of the libraries' hooks. At test these write images of one name over each other (mmdet, mmpretrain),
    build the training set (mmseg), and choose the folder each in its own way.

    An image keeps its name, and its path below the folder that all images of the test share. Of several
    processes the first one draws, its share of the images: the libraries' visualizers do nothing in the others.

    Where a library draws the ground truth on the left and the prediction on the right, a header says so. Of a
    detector's boxes that overlap, the best is drawn, see `without_doubles`; metrics and --out have all of them.

    Args:
        out_dir: Folder that the drawings go to.
        method: Method of the visualizer: 'add_datasample', or 'visualize_cls' of mmpretrain's.
        backend_args: Arguments of mmengine's file backend, which reads the images.
        max_overlap: Overlap (IoU) of boxes from which on the best one alone is drawn.
        settings: Further arguments of the method, such as `pred_score_thr`.

    Raises:
        ValueError: An image comes from no file or is tested twice, or the drawings would be written over the tested
            images or among them. The runner raises it before the first image.
        OSError: The folder cannot be written to. The runner raises it before the first image.
    """

    def __init__(
        self,
        out_dir: str,
        method: str = 'add_datasample',
        backend_args: dict | None = None,
        max_overlap: float = MAX_OVERLAP,
        **settings: Any,
    ) -> None:
        self.out_dir = Path(out_dir).absolute()
        self.method, self.backend_args, self.settings = method, backend_args, settings
        self.max_overlap = max_overlap

    def before_test(self, runner: Runner) -> None:
        dataset = runner.test_loop.dataloader.dataset
        paths = [dataset.get_data_info(i).get('img_path') for i in range(len(dataset))]
        if None in paths:
            raise ValueError(
                f'--show-dir: expected images in files; {type(dataset).__name__} holds some that are in none'
            )
        self.folder = os.path.commonpath({os.path.dirname(os.path.abspath(path)) for path in paths})
        if self.out_dir.resolve() == Path(self.folder).resolve():
            raise ValueError(f'--show-dir: {self.out_dir} holds the images that are tested. Name another folder')
        for folder in {*map(os.path.dirname, paths), *_image_folders(dataset)}:
            check_outside(self.out_dir, folder or '.', '--show-dir')
        check_results(zip(paths, map(self._file_of, paths), strict=True), '--show-dir')
        check_writable(self.out_dir, '--show-dir')
        if get_world_size() > 1:
            print_log(
                '--show-dir: of several processes the first one draws, its share of the images. Test with one '
                'process for all',
                logger='current',
                level=logging.WARNING,
            )

    @master_only
    def after_test_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Sequence[BaseDataElement] = ()
    ) -> None:
        for sample in outputs:
            path = sample.img_path
            content = fileio.get(path, backend_args=self.backend_args)
            image = mmcv.imfrombytes(content, channel_order='rgb')
            file = self._file_of(path)
            drawn = without_doubles(sample, self.max_overlap)
            draw = drawing(runner.visualizer, self.method, image)
            with tempfile.TemporaryDirectory() as folder:  # in a format that keeps every pixel
                lossless = os.path.join(folder, 'drawn.png')
                draw(name=file.name, data_sample=drawn, out_file=lossless, **self.settings)
                pair = mmcv.imread(lossless, channel_order='rgb')
            if self.method == 'add_datasample' and pair.shape[1] == 2 * image.shape[1]:
                left = 'ground truth' if _has_ground_truth(sample) else 'image'
                pair = with_header(runner.visualizer, pair, (left, 'prediction'))
            mmcv.imwrite(pair[..., ::-1], str(file))

    def _file_of(self, path: str) -> Path:
        return self.out_dir / os.path.relpath(os.path.abspath(path), self.folder)


def _has_ground_truth(sample: BaseDataElement) -> bool:
    """Whether a sample is annotated. mmdet's have `gt_instances` without annotations as well, which hold nothing."""
    return any(key.startswith('gt_') and len(sample.get(key).keys()) for key in sample.keys())  # noqa: SIM118


def with_header(visualizer: Visualizer, drawn: np.ndarray, titles: Sequence[str]) -> np.ndarray:
    """A drawing with a line of text above each of its columns.

    Args:
        visualizer: mmengine's, or one derived from it.
        drawn: (H, W, 3), RGB, of `len(titles)` columns of one width.
        titles: Text of each column.

    Returns:
        (H + h, W, 3), RGB.
    """
    width = drawn.shape[1] / len(titles)
    size = min(max(round(width / 16), 5), 14)  # in points: the longest title fits, and is legible
    band = np.full((round(2.2 * size), drawn.shape[1], 3), 255, np.uint8)
    visualizer.set_image(band)
    centres = np.array([((i + 0.5) * width, len(band) / 2) for i in range(len(titles))])
    visualizer.draw_texts(
        list(titles),
        centres,
        font_sizes=size,
        colors='k',
        vertical_alignments='center',
        horizontal_alignments='center',
    )
    return np.concatenate((visualizer.get_image(), drawn))


def _image_folders(dataset: Any) -> Iterator[str]:
    """The folders that a dataset, or what it wraps, reads images or classes of images from."""
    prefixes = getattr(dataset, 'data_prefix', {})
    yield from (prefixes[key] for key in ('img', 'img_path') if prefixes.get(key))
    for inner in (*getattr(dataset, 'datasets', ()), *filter(None, [getattr(dataset, 'dataset', None)])):
        yield from _image_folders(inner)


def drawing(visualizer: Visualizer, method: str, image: np.ndarray) -> Callable:
    """A visualizer's method, bound to an image (H, W, 3), RGB."""
    draw = partial(getattr(visualizer, method), image=image)
    narrow = method == 'visualize_cls' and image.shape[1] < 320  # no room for the text
    return partial(draw, rescale_factor=320 / image.shape[1]) if narrow else draw


class DumpPredictions(DumpResults):
    """mmengine's metric that writes predictions to a pickle file, without what is large and is no prediction.

    All of them are in memory until the test ends. Of a segmentation the label maps are kept, in 2 bytes per pixel, and
    not the scores of each class at each pixel; the masks of instances are encoded (RLE), as mmdet's tools expect them.
    """

    def process(self, data_batch: Any, predictions: Sequence[Mapping]) -> None:
        kept = [{key: value for key, value in each.items() if key not in _LEFT_OUT} for each in predictions]
        super().process(data_batch, kept)
        for prediction in self.results[-len(kept) :]:
            for part, key, change in (('pred_sem_seg', 'data', _narrow), ('pred_instances', 'masks', _encode)):
                if key in prediction.get(part, {}):
                    prediction[part][key] = change(prediction[part][key])


def _narrow(label_map: Tensor) -> Tensor:
    return label_map.to(torch.int16)


def _encode(masks: Any) -> Any:
    from mmdet.structures.mask import encode_mask_results

    return encode_mask_results(masks.numpy()) if isinstance(masks, Tensor) else masks
