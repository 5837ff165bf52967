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
import torch
from mmengine.config import Config
from rich.progress import track

from mmsparx.engine.outputs import check_outside, check_writable, distinct_stems
from mmsparx.engine.predictions import use_class_colours, without_doubles
from mmsparx.zoo import resolve_config

PICTURES = ('.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp', '.ppm')

# Folders of the results, below --out-dir.
KINDS = ('pictures', 'labels', 'predictions')

# A picture (H, W, 3), BGR -> what was found drawn into it, and the predictions for JSON; with them under 'label_map',
# if there is one, the class of each pixel (H, W).
Network = Callable[[np.ndarray], tuple[np.ndarray, dict]]


def detector(config: str, checkpoint: str, device: str, args: argparse.Namespace) -> Network:
    from mmdet.apis import DetInferencer

    cfg = Config.fromfile(config)
    use_class_colours(cfg)
    inferencer = DetInferencer(model=cfg, weights=checkpoint, device=device, show_progress=False)
    classes = inferencer.model.dataset_meta['classes']

    def infer(picture: np.ndarray) -> tuple[np.ndarray, dict]:
        (sample,) = inferencer(picture, return_datasamples=True)['predictions']
        result = inferencer.pred2dict(sample)
        # Pictures are drawn as they are given, and drawn into in RGB.
        (drawn,) = inferencer.visualize(
            [picture[..., ::-1]],
            [without_doubles(sample, args.max_overlap)],
            return_vis=True,
            pred_score_thr=args.score_thr,
        )
        return drawn[..., ::-1], {**result, 'classes': [classes[i] for i in result['labels']]}

    return infer


def segmenter(config: str, checkpoint: str, device: str, args: argparse.Namespace) -> Network:
    from mmseg.apis import MMSegInferencer

    inferencer = MMSegInferencer(model=config, weights=checkpoint, device=device)
    inferencer.show_progress = False
    classes = inferencer.model.dataset_meta['classes']

    def infer(picture: np.ndarray) -> tuple[np.ndarray, dict]:
        sample = inferencer(picture, return_datasamples=True)
        label_map = sample.pred_sem_seg.data[0].cpu().numpy().astype(np.uint8)
        labels, counts = np.unique(label_map, return_counts=True)
        shares = {classes[i]: count / label_map.size for i, count in zip(labels, counts.tolist(), strict=True)}
        (drawn,) = inferencer.visualize([picture[..., ::-1]], [sample], return_vis=True, opacity=0.5)
        return drawn[..., ::-1], {'shares': shares, 'label_map': label_map}

    return infer


def classifier(config: str, checkpoint: str, device: str, args: argparse.Namespace) -> Network:
    from mmpretrain.apis import ImageClassificationInferencer
    from mmpretrain.visualization import UniversalVisualizer

    inferencer = ImageClassificationInferencer(model=config, pretrained=checkpoint, device=device)
    visualizer = UniversalVisualizer()

    def infer(picture: np.ndarray) -> tuple[np.ndarray, dict]:
        # Not by calling it, which shows a progress bar of its own.
        (sample,) = inferencer.forward(next(inferencer.preprocess([picture])))
        (result,) = inferencer.postprocess([sample], [])
        width = max(picture.shape[1], 320)  # else there is no room for the text
        drawn = visualizer.visualize_cls(
            mmcv.imrescale(picture[..., ::-1], width / picture.shape[1]), sample, inferencer.classes, draw_gt=False
        )
        return drawn[..., ::-1], {**result, 'pred_scores': result['pred_scores'].tolist()}

    return infer


NETWORKS = {'mmdet': detector, 'mmseg': segmenter, 'mmpretrain': classifier}


def load_network(args: argparse.Namespace) -> Network:
    """The network that a config and a checkpoint make.

    Raises:
        ValueError: the config is neither a file nor a shipped config, or of none of the three libraries.
    """
    config = str(resolve_config(args.config))
    library = Config.fromfile(config).get('default_scope')
    if library not in NETWORKS:
        raise ValueError(f'{config}: expected default_scope to be one of {", ".join(NETWORKS)}, got {library!r}')
    device = args.device or ('cuda:0' if torch.cuda.is_available() else 'cpu')
    return NETWORKS[library](config, args.checkpoint, device, args)


@dataclass
class Source:
    """Where pictures come from.

    Attributes:
        pictures: Pairs of the name for a picture's results and the picture, None for one that cannot be read.
        count: Number of the pictures; None of a camera.
        stems: Names without suffix for predictions and label maps, where it is not the name of the picture's alone.
    """

    pictures: Iterator[tuple[str, np.ndarray | None]]
    count: int | None
    stems: Mapping[str, str] = field(default_factory=dict)


def open_source(source: str) -> Source:
    """The pictures of a file, a folder, a video or a camera.

    Raises:
        FileNotFoundError: there is no such source, or no picture in it.
        ValueError: it is a file that is neither picture nor video, or the camera gives nothing.
    """
    path = Path(source)
    if source.isdecimal() and not path.exists():
        camera = cv2.VideoCapture(int(source))
        if not camera.isOpened():
            raise ValueError(f'camera {source} cannot be opened')
        return Source(((f'{i:06d}.jpg', frame) for i, frame in enumerate(iter(lambda: camera.read()[1], None))), None)
    if path.is_dir():
        files = sorted(file for file in path.rglob('*') if file.suffix.lower() in PICTURES)
        if not files:
            raise FileNotFoundError(f'no picture in {path}; known kinds: {", ".join(PICTURES)}')
        names = [file.relative_to(path).as_posix() for file in files]
        pictures = zip(names, map(read_picture, files), strict=True)
        return Source(pictures, len(files), distinct_stems(names))
    if not path.is_file():
        raise FileNotFoundError(f'no picture, folder or video {source}')
    if path.suffix.lower() in PICTURES:
        return Source(iter([(path.name, read_picture(path))]), 1)
    video = mmcv.VideoReader(str(path))
    if video.frame_cnt < 1:  # negative where OpenCV does not know the format
        raise ValueError(f'{source} is no picture ({", ".join(PICTURES)}), and no video that OpenCV reads')
    return Source(((f'{path.stem}/{i:06d}.jpg', frame) for i, frame in enumerate(video)), len(video))


def read_picture(path: Path) -> np.ndarray | None:
    data = np.fromfile(path, np.uint8)
    return cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None


def write(out: Path, name: str, stem: str, drawn: np.ndarray, result: dict) -> None:
    """Write what was found in a picture.

    Args:
        out: Folder of the results.
        name: Name of the picture.
        stem: Name of the other results, without a suffix.
        drawn: (H, W, 3), BGR.
        result: As a `Network` returns it.

    Raises:
        FileExistsError: A file of that name is there that no earlier run has written.
    """
    files = [out / kind / file for kind, file in zip(KINDS, (name, f'{stem}.png', f'{stem}.json'), strict=True)]
    picture, labels, predictions = files
    result = dict(result)
    label_map = result.pop('label_map', None)
    if not predictions.exists():  # they are written first: where they are not, the others are not of this command
        for file in (picture, labels):
            if os.path.lexists(file):
                raise FileExistsError(f'{file} is there already, and no result of this command. Name another --out-dir')
    predictions.parent.mkdir(parents=True, exist_ok=True)
    predictions.write_text(json.dumps(result))
    if label_map is not None:
        mmcv.imwrite(label_map, str(labels))
    mmcv.imwrite(np.ascontiguousarray(drawn), str(picture))


def run_inference(args: argparse.Namespace) -> int:
    """Show a network what the arguments of the command name.

    Returns:
        Exit status: 1 if some images could not be read.

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
    network = load_network(args)
    total = min(source.count or sys.maxsize, args.max_frames or sys.maxsize)
    unread, done, interrupted = [], 0, False
    try:
        shown = track(islice(source.pictures, total), 'pictures', None if total == sys.maxsize else total)
        for name, picture in shown:
            if picture is None:
                unread.append(name)
                continue
            stem = source.stems.get(name) or str(Path(name).with_suffix(''))
            write(out, name, stem, *network(picture))
            done += 1
    except KeyboardInterrupt:
        interrupted = source.count is not None  # a camera ends in this way
    sys.stdout.write(f'{done} pictures done, results in {out}\n')
    if unread:
        sys.stdout.write(f'{len(unread)} cannot be read and were passed over: {", ".join(unread)}\n')
    if interrupted:
        raise KeyboardInterrupt
    return 1 if unread else 0
