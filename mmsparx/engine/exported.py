"""Exported files as networks of `mmsparx infer`: what is before and after them, as the libraries do it."""

import sys
from collections.abc import Mapping

import mmcv
import numpy as np
import torch
import torch.nn.functional as F

from mmsparx.engine.predictions import Drawing, without_doubles
from mmsparx.export.description import Description, read_description
from mmsparx.export.detection import paste_masks
from mmsparx.export.runtimes import Run, open_file
from mmsparx.export.subjects import CLASSIFICATION, DETECTION, SEGMENTATION


def load_exported(file: str):
    """An exported file as a `mmsparx.engine.inference.Network`; says which runtime it runs in.

    Args:
        file: File that `mmsparx export` has written, with its JSON file beside it.

    Raises:
        ValueError: The file is of a backbone alone, names no classes, or see `read_description` and `open_file`.
    """
    about = read_description(file)
    if about.task not in _NETWORKS:
        raise ValueError(f'{file}: expected a classifier, a segmenter or a detector, got {about.task} of a backbone')
    if about.classes is None:
        raise ValueError(f'{file}: expected the names of the classes in the JSON file beside it, got none')
    if about.slide:
        raise ValueError(f'{file}: the model is tested in sliding windows, which an exported file is not run in')
    run = open_file(file)
    sys.stdout.write(f'{file} runs in {run.runtime}\n')
    return _NETWORKS[about.task](run, about)


# Dimensions of the outputs.
_OUTPUTS = {CLASSIFICATION: [(2,)], SEGMENTATION: [(4,)], DETECTION: [(2, 1, 1), (2, 1, 1, 3)]}


def outputs(run: Run, prepared: np.ndarray, about: Description) -> list[np.ndarray]:
    """The file's outputs for a prepared image, (1, 3, H, W).

    Raises:
        ValueError: The description is of another task or of another number of classes.
    """
    found = run(prepared)
    if tuple(output.ndim for output in found) not in _OUTPUTS[about.task]:
        shapes = ', '.join(str(output.shape) for output in found)
        raise ValueError(f'the JSON file names the task {about.task}, whose outputs are others than {shapes}')
    number = found[0].shape[1]
    if about.task == DETECTION:  # no output has an entry for each of the classes
        number = max(len(about.classes), int(found[2].max(initial=0)) + 1)
    if number != len(about.classes):
        least = 'at least ' if about.task == DETECTION else ''
        raise ValueError(
            f'the JSON file names {len(about.classes)} classes, and the file has {least}{number}; export it again'
        )
    return found


def prepare(image: np.ndarray, about: Description) -> np.ndarray:
    """(H, W, 3), BGR, 8 bits -> (1, 3, h, w), float32, as the file takes it."""
    for step in about.resize:
        image = _resized(image, step)
    if about.size is not None and image.shape[:2] != about.size:
        wanted, got = ('x'.join(map(str, size)) for size in (about.size, image.shape[:2]))
        raise ValueError(
            f'the file takes images of {wanted}, and the preparation makes {got} of this one; export '
            'without --static, or with the size that the config prepares'
        )
    values = image if about.bgr else image[..., ::-1]
    values = (values.astype(np.float32) - np.float32(about.mean)) / np.float32(about.std)
    return np.ascontiguousarray(values.transpose(2, 0, 1)[None])


def _resized(image: np.ndarray, step: Mapping) -> np.ndarray:
    how = {'interpolation': step.get('interpolation', 'bilinear'), 'backend': step.get('backend', 'cv2')}
    height, width = image.shape[:2]
    if step['step'] == 'resize':
        resize = mmcv.imrescale if step['keep_ratio'] else mmcv.imresize
        return resize(image, tuple(step['scale']), **how)
    if step['step'] == 'resize_edge':
        scale, edge = step['scale'], step['edge']
        across = edge == 'width' or (edge == 'short' and width < height) or (edge == 'long' and width > height)
        size = (scale, int(scale * height / width)) if across else (int(scale * width / height), scale)
        return mmcv.imresize(image, size, **how)
    if step['step'] == 'center_crop':
        crop_height, crop_width = step['size']
        top = max(0, round((height - crop_height) / 2.0))
        left = max(0, round((width - crop_width) / 2.0))
        bottom, right = min(height, top + crop_height) - 1, min(width, left + crop_width) - 1
        return mmcv.imcrop(image, np.array([left, top, right, bottom]))
    return mmcv.imresize_to_multiple(image, step['divisor'], scale_factor=1)


def _classifier(run: Run, about: Description):
    from mmpretrain.structures import DataSample
    from mmpretrain.visualization import UniversalVisualizer

    visualizer = UniversalVisualizer()

    def infer(image: np.ndarray, drawing: Drawing) -> tuple[np.ndarray, dict]:
        (logits,) = outputs(run, prepare(image, about), about)
        scores = torch.from_numpy(logits[0]).softmax(0)
        label = int(scores.argmax())
        sample = DataSample().set_pred_score(scores).set_pred_label(label)
        result = {'pred_scores': scores.tolist(), 'pred_label': label, 'pred_score': float(scores.max())}
        drawn = draw_class(visualizer, image, sample, about.classes)
        return drawn, {**result, 'pred_class': about.classes[label]}

    return infer


def draw_class(visualizer, image: np.ndarray, sample, classes) -> np.ndarray:
    """The image (H, W, 3), BGR, with the class of mmpretrain's sample written into it."""
    height, width = image.shape[:2]
    scale = max(1, min(320 / width, 2048 / height))  # narrow ones have no room for the text
    drawn = visualizer.visualize_cls(mmcv.imrescale(image[..., ::-1], scale), sample, classes, draw_gt=False)
    return drawn[..., ::-1]


def _segmenter(run: Run, about: Description):
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample
    from mmseg.visualization import SegLocalVisualizer

    palette = about.palette or np.random.default_rng(0).integers(0, 256, (len(about.classes), 3)).tolist()
    visualizer = SegLocalVisualizer(alpha=0.5)
    # mmseg 1.2.2 confuses its arguments for these two.
    visualizer.set_dataset_meta(classes=list(about.classes), palette=list(map(list, palette)))

    def infer(image: np.ndarray, drawing: Drawing) -> tuple[np.ndarray, dict]:
        (logits,) = outputs(run, prepare(image, about), about)
        logits = F.interpolate(
            torch.from_numpy(logits), image.shape[:2], mode='bilinear', align_corners=about.align_corners
        )
        labels = logits.argmax(1)  # (1, H, W)
        label_map = labels[0].numpy().astype(np.uint8)
        result = {'shares': class_shares(label_map, about.classes), 'label_map': label_map}
        if label_map.size == 1:  # mmseg's visualizer would take it for an index
            return image, result
        sample = SegDataSample(pred_sem_seg=PixelData(data=labels))
        visualizer.add_datasample('image', image[..., ::-1].copy(), sample, draw_gt=False)
        return visualizer.get_image()[..., ::-1], result

    return infer


def class_shares(label_map: np.ndarray, classes) -> dict[str, float]:
    """The share of pixels of each class that occurs, by name."""
    labels, counts = np.unique(label_map, return_counts=True)
    return {classes[i]: count / label_map.size for i, count in zip(labels, counts.tolist(), strict=True)}


def _detector(run: Run, about: Description):
    from mmdet.structures import DetDataSample
    from mmengine.structures import InstanceData

    from mmsparx.engine.det_visualizer import ClassColourVisualizer

    visualizer = ClassColourVisualizer()
    visualizer.dataset_meta = {'classes': about.classes, 'palette': list(about.palette or ()) or 'random'}

    def infer(image: np.ndarray, drawing: Drawing) -> tuple[np.ndarray, dict]:
        prepared = prepare(image, about)
        boxes, scores, labels, *masks = outputs(run, prepared, about)
        size = image.shape[:2]
        across, down = (new / old for new, old in zip(prepared.shape[:1:-1], size[::-1], strict=True))
        boxes = boxes / np.array([across, down, across, down], np.float32)
        found = InstanceData(
            bboxes=torch.from_numpy(boxes), scores=torch.from_numpy(scores), labels=torch.from_numpy(labels)
        )
        result = {'labels': labels.tolist(), 'scores': scores.tolist(), 'bboxes': boxes.tolist()}
        if masks:
            pasted = paste_masks(masks[0], boxes, size, about.mask_threshold)
            found.masks, result['masks'] = torch.from_numpy(pasted), _run_lengths(pasted)
        sample = without_doubles(DetDataSample(pred_instances=found), drawing.max_overlap)
        visualizer.add_datasample('image', image[..., ::-1].copy(), sample, False, pred_score_thr=drawing.score_thr)
        names = [about.classes[i] for i in result['labels']]
        return visualizer.get_image()[..., ::-1], {**result, 'classes': names}

    return infer


def _run_lengths(masks: np.ndarray) -> list[dict]:
    """Masks (N, H, W) as COCO keeps them, in types of JSON."""
    from mmdet.structures.mask import encode_mask_results

    return [{**coded, 'counts': coded['counts'].decode()} for coded in encode_mask_results(masks)]


_NETWORKS = {CLASSIFICATION: _classifier, SEGMENTATION: _segmenter, DETECTION: _detector}
