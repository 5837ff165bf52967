"""The run of `mmsparx infer`: images of a source, networks of three libraries, and files of what they see."""

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import cv2
import mmcv
import numpy as np
from mmengine.config import Config
from mmengine.registry import DefaultScope
from rich.progress import track

from mmsparx.engine.classes import names_classes, of_dataset
from mmsparx.engine.command_line import read_config
from mmsparx.engine.devices import device_of
from mmsparx.engine.exported import class_shares, draw_class, load_exported
from mmsparx.engine.outputs import check_outside, check_writable, distinct_stems
from mmsparx.engine.predictions import Drawing, use_class_colours, without_doubles
from mmsparx.weights import read_weights
from mmsparx.zoo import resolve_config

SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp', '.ppm')

# Folders of the results, below --out-dir.
KINDS = ('images', 'labels', 'predictions')

# An image (H, W, 3), BGR, and the choice of detections to draw -> what was found drawn into the image, and the
# predictions for JSON; with them under 'label_map', if there is one, the class of each pixel (H, W).
Network = Callable[[np.ndarray, Drawing], tuple[np.ndarray, dict]]


def detector(config: str, checkpoint: str, device: str) -> Network:
    from mmdet.apis import DetInferencer

    cfg = Config.fromfile(config)
    use_class_colours(cfg)
    inferencer = DetInferencer(model=cfg, weights=checkpoint, device=device, show_progress=False)
    inferencer.model.dataset_meta.update(classes=class_meta(cfg, checkpoint, inferencer.model.dataset_meta)['classes'])
    classes = inferencer.model.dataset_meta['classes']

    def infer(image: np.ndarray, drawing: Drawing) -> tuple[np.ndarray, dict]:
        (sample,) = inferencer(image, return_datasamples=True)['predictions']
        result = inferencer.pred2dict(sample)
        # Images are drawn as they are given, and drawn into in RGB.
        (drawn,) = inferencer.visualize(
            [image[..., ::-1]],
            [without_doubles(sample, drawing.max_overlap)],
            return_vis=True,
            pred_score_thr=drawing.score_thr,
        )
        return drawn[..., ::-1], {**result, 'classes': [classes[i] for i in result['labels']]}

    return infer


def segmenter(config: str, checkpoint: str, device: str) -> Network:
    from mmseg.apis import MMSegInferencer

    inferencer = MMSegInferencer(model=config, weights=checkpoint, device=device)
    inferencer.show_progress = False
    meta = class_meta(Config.fromfile(config), checkpoint, inferencer.model.dataset_meta)
    inferencer.model.dataset_meta = meta  # the visualizer gets it with each image
    classes = meta['classes']

    def infer(image: np.ndarray, drawing: Drawing) -> tuple[np.ndarray, dict]:
        sample = inferencer(image, return_datasamples=True)
        label_map = sample.pred_sem_seg.data[0].cpu().numpy().astype(np.uint8)
        shares = class_shares(label_map, classes)
        if label_map.size == 1:  # mmseg's visualizer would take it for an index
            return image, {'shares': shares, 'label_map': label_map}
        (drawn,) = inferencer.visualize([image[..., ::-1]], [sample], return_vis=True, opacity=0.5)
        return drawn[..., ::-1], {'shares': shares, 'label_map': label_map}

    return infer


def classifier(config: str, checkpoint: str, device: str) -> Network:
    from mmpretrain.apis import ImageClassificationInferencer
    from mmpretrain.visualization import UniversalVisualizer

    inferencer = ImageClassificationInferencer(model=config, pretrained=checkpoint, device=device)
    visualizer = UniversalVisualizer()

    def infer(image: np.ndarray, drawing: Drawing) -> tuple[np.ndarray, dict]:
        # Calling the inferencer would show a progress bar of its own.
        (sample,) = inferencer.forward(next(inferencer.preprocess([image])))
        (result,) = inferencer.postprocess([sample], [])
        drawn = draw_class(visualizer, image, sample, inferencer.classes)
        return drawn, {**result, 'pred_scores': result['pred_scores'].tolist()}

    return infer


NETWORKS = {'mmdet': detector, 'mmseg': segmenter, 'mmpretrain': classifier}


def class_meta(cfg: Config, checkpoint: str, otherwise: Mapping) -> Mapping:
    """Names and colours of the classes, which the libraries take from the checkpoint alone.

    Args:
        cfg: Config of the network.
        checkpoint: Checkpoint, which may name no classes, as one of weights alone.
        otherwise: Classes that the library has taken: the checkpoint's, or else those of COCO or Cityscapes, even if
            the network was trained on others.

    Returns:
        Those of the config's test set where the checkpoint names none, with colours where these are not known; else
        `otherwise`.
    """
    if names_classes(read_weights(checkpoint).meta):
        return otherwise
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope')):
        found = of_dataset(cfg)
    if not found:
        return otherwise
    if len(found.get('palette', ())) != len(found['classes']):
        found['palette'] = np.random.default_rng(0).integers(0, 256, (len(found['classes']), 3)).tolist()
    return found


def load_network(
    config: str | None = None, checkpoint: str | None = None, *, model: str | None = None, device: str | None = None
) -> Network:
    """The network that a config and a checkpoint make, or an exported file.

    Args:
        config: Config file, or the name of a shipped config.
        checkpoint: Checkpoint file or address.
        model: Exported file, instead of the two.
        device: Device of a config's network; by default a GPU if there is one.

    Raises:
        ValueError: the config is neither a file nor a shipped config, or of none of the three libraries; there is no
            such device; or neither or both of the two are given.
    """
    if model is not None:
        if config is not None or device is not None:
            raise ValueError('--model: expected an exported file alone, without CONFIG, CHECKPOINT and --device')
        return load_exported(model)
    if config is None or checkpoint is None:
        raise ValueError('expected CONFIG and CHECKPOINT, or --model FILE of an exported network')
    config = str(resolve_config(config))
    library = read_config(Path(config)).get('default_scope')
    if library not in NETWORKS:
        raise ValueError(f'{config}: expected default_scope to be one of {", ".join(NETWORKS)}, got {library!r}')
    # A network that was loaded before may have left another scope.
    with DefaultScope.overwrite_default_scope(library):
        network = NETWORKS[library](config, checkpoint, device_of(device))

    def infer(image: np.ndarray, drawing: Drawing) -> tuple[np.ndarray, dict]:
        with DefaultScope.overwrite_default_scope(library):
            return network(image, drawing)

    return infer


@dataclass
class Source:
    """A source of images.

    Attributes:
        images: Pairs of the name for an image's results and the image, None for one that cannot be read.
        count: Number of the images; None of a camera.
        stems: Names without suffix for predictions and label maps, where it is not the name of the image's alone.
    """

    images: Iterator[tuple[str, np.ndarray | None]]
    count: int | None
    stems: Mapping[str, str] = field(default_factory=dict)


def open_source(source: str) -> Source:
    """The images of a file, a folder, a video or a camera.

    Raises:
        FileNotFoundError: there is no such source, or no image in it.
        ValueError: it is a file that is neither image nor video, or the camera gives nothing.
    """
    path = Path(source)
    if source.isdecimal() and not path.exists():
        camera = cv2.VideoCapture(int(source))
        if not camera.isOpened():
            raise ValueError(f'camera {source} cannot be opened')
        return Source(((f'{i:06d}.jpg', frame) for i, frame in enumerate(iter(lambda: camera.read()[1], None))), None)
    if path.is_dir():
        files = image_files(path)
        names = [file.relative_to(path).as_posix() for file in files]
        images = zip(names, map(read_image, files), strict=True)
        return Source(images, len(files), distinct_stems(names))
    if not path.is_file():
        raise FileNotFoundError(f'no image, folder or video {source}')
    if path.suffix.lower() in SUFFIXES:
        return Source(iter([(path.name, read_image(path))]), 1)
    video = mmcv.VideoReader(str(path))
    if video.frame_cnt < 1:  # negative where OpenCV does not know the format
        raise ValueError(f'{source} is neither an image ({", ".join(SUFFIXES)}), nor a video that OpenCV reads')
    return Source(((f'{path.stem}/{i:06d}.jpg', frame) for i, frame in enumerate(video)), len(video))


def image_files(folder: Path) -> list[Path]:
    """The images of a folder and of those in it, sorted.

    Raises:
        FileNotFoundError: There is none.
    """
    files = sorted(file for file in folder.rglob('*') if file.suffix.lower() in SUFFIXES and file.is_file())
    if not files:
        raise FileNotFoundError(f'no image in {folder}; known kinds: {", ".join(SUFFIXES)}')
    return files


def read_image(path: Path) -> np.ndarray | None:
    data = np.fromfile(path, np.uint8)
    return cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None


def write(out: Path, name: str, stem: str, drawn: np.ndarray, result: dict) -> None:
    """Write what was found in an image.

    Args:
        out: Folder of the results.
        name: Name of the image.
        stem: Name of the other results, without a suffix.
        drawn: (H, W, 3), BGR.
        result: Predictions as a `Network` returns them.

    Raises:
        FileExistsError: A file of that name is there that no earlier run has written.
    """
    files = [out / kind / file for kind, file in zip(KINDS, (name, f'{stem}.png', f'{stem}.json'), strict=True)]
    image, labels, predictions = files
    result = dict(result)
    label_map = result.pop('label_map', None)
    if not predictions.exists():  # they are written first: where they are not, the others are not of this command
        for file in (image, labels):
            if os.path.lexists(file):
                raise FileExistsError(
                    f'{file} exists already, and is not a result of this command. Name another --out-dir'
                )
    predictions.parent.mkdir(parents=True, exist_ok=True)
    predictions.write_text(json.dumps(result))
    if label_map is not None:
        mmcv.imwrite(label_map, str(labels))
    mmcv.imwrite(np.ascontiguousarray(drawn), str(image))


def run_inference(args: argparse.Namespace) -> int:
    """Show a network what the arguments of the command name.

    Returns:
        Exit status: 1 if some images could not be read, or resized.

    Raises:
        KeyboardInterrupt: Ctrl-C, before the last image of a source that has one; what is done is said first.
    """
    source = open_source(args.source)
    out = Path(args.out_dir)
    if os.path.exists(args.source):
        for kind in KINDS:
            check_outside(out / kind, args.source, '--out-dir')
            check_outside(args.source, out / kind, '--out-dir')
    check_writable(out, '--out-dir')
    network = load_network(args.config, args.checkpoint, model=args.model, device=args.device)
    drawing = Drawing(args.score_thr, args.max_overlap)
    total = min(source.count or sys.maxsize, args.max_frames or sys.maxsize)
    unread, refused, done, interrupted = [], [], 0, False
    try:
        shown = track(islice(source.images, total), 'images', None if total == sys.maxsize else total)
        for name, image in shown:
            if image is None:
                unread.append(name)
                continue
            stem = source.stems.get(name) or str(Path(name).with_suffix(''))
            try:
                drawn, result = network(image, drawing)
            except cv2.error:  # such as an image of 1x10000, which would become 0 pixels high
                refused.append(name)
                continue
            write(out, name, stem, drawn, result)
            done += 1
    except KeyboardInterrupt:
        interrupted = source.count is not None  # a camera ends in this way
    sys.stdout.write(f'{done} images done, results in {out}\n')
    if unread:
        sys.stdout.write(f'{len(unread)} cannot be read and were passed over: {", ".join(unread)}\n')
    if refused:
        sys.stdout.write(f'{len(refused)} cannot be resized by OpenCV and were passed over: {", ".join(refused)}\n')
    if interrupted:
        raise KeyboardInterrupt
    return 1 if unread or refused else 0
