"""A page to try a network in a browser: boxes and masks, a segmentation or classes, and a heat map of the evidence.

    python demo/app.py CONFIG CHECKPOINT          # a shipped config's name or a config file, and a checkpoint of it
    python demo/app.py --model FILE.onnx          # what `mmsparx export` has written: .onnx, .xml or .pt2
    python demo/app.py --allow-weights            # for oneself: config and file are fields of the page

The network is chosen where the page is started, and visitors upload images alone, because a config and an exported file
are programs. --allow-weights shows fields for both, which take files of this machine, and serves this machine alone.
An image with more pixels than --max-megapixels is refused; uploads are deleted after an hour.

The page needs no other server: it has no analytics, and the fonts are those of the visitor's system.

Needs pip install 'mmsparx[demo]', and the library of the network: 'mmsparx[det]', 'mmsparx[seg]' or 'mmsparx[cls]'.
"""

import argparse
import html
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import gradio as gr
import numpy as np
import torch
from PIL import Image

from mmsparx.analysis.cam import class_activation
from mmsparx.cli.analyze.overlays import Overlay
from mmsparx.cli.analyze.subjects import class_name, prepare, score_of
from mmsparx.cli.arguments import add_config_argument, at_least
from mmsparx.cli.models import load_model
from mmsparx.cli.named_model import NamedModel
from mmsparx.cli.running import Command, sentence_of
from mmsparx.engine import inference
from mmsparx.engine.predictions import Drawing
from mmsparx.export.description import read_description
from mmsparx.export.requirements import SUFFIXES, check_runtime, format_of
from mmsparx.export.subjects import DETECTION
from mmsparx.layers.mixers import SS2D, SSM, BiSSM
from mmsparx.ops.selective_scan.backends import explain
from mmsparx.zoo import list_configs

Image.MAX_IMAGE_PIXELS = None  # `read` has the limit
# The page uses fonts of the visitor's system, since gradio's own are fetched from the network.
THEME = gr.themes.Default(font=['system-ui', 'sans-serif'], font_mono=['ui-monospace', 'monospace'])
CSS = '.image-frame img {width: 100%; height: 100%; object-fit: contain}'  # also of small images
LARGEST_SIDE = 2048  # pixels, to which uploads are reduced, since masks of more take long to draw
LOCAL = ('127.0.0.1', 'localhost', '::1')


@dataclass(frozen=True)
class Loaded:
    """A network with what the page says of it; the model is for heat maps, and None of an exported file."""

    name: str
    runtime: str
    network: inference.Network
    detects: bool
    classes: Sequence[str] | None
    model: NamedModel | None = None


@lru_cache(maxsize=1)
def load(config: str | None = None, checkpoint: str | None = None, exported: str | None = None) -> Loaded:
    """Load a network, and keep it until another one is asked for; see `load_network` for arguments and errors."""
    network = inference.load_network(config, checkpoint, model=exported)
    if exported is not None:
        about, package = read_description(exported), check_runtime(format_of(exported))
        runtime = f'{package.__name__} {package.__version__} on cpu'
        return Loaded(Path(exported).name, runtime, network, about.task == DETECTION, about.classes)
    model = load_model(config, checkpoint)
    model.module.requires_grad_(False)
    parameter = next(model.module.parameters())
    runtime = f'torch {torch.__version__} on {parameter.device}'
    if any(isinstance(module, (SS2D, SSM, BiSSM)) for module in model.module.modules()):
        runtime += f'; selective scan: {explain(parameter.new_empty(1, 1, 1))}'
    return Loaded(f'{model.label}, {model.weights}', runtime, network, model.library == 'mmdet', model.classes, model)


def fault(text: str) -> gr.Error:
    """A message on the page, which takes HTML."""
    return gr.Error(html.escape(text).replace('\n', '<br>'), print_exception=False)


@contextmanager
def faults_on_the_page() -> Iterator[None]:
    """Within it, what a visitor can fix becomes a message. What is left is a bug, which the server's log has."""
    try:
        yield
    except cv2.error as error:  # such as an image of 1x10000, which would become 0 pixels high
        raise fault('OpenCV cannot resize this image as the network needs it: it is too narrow.') from error
    except Exception as error:
        text = sentence_of(error)
        if text is None:
            raise
        raise fault(text) from error


def read(path: str | None, megapixels: int) -> np.ndarray:
    """Read an upload, (H, W, 3), BGR, reduced; raises gr.Error where it is no image, damaged or too large."""
    if path is None:
        raise fault('Choose an image first.')
    try:
        with Image.open(path) as header:  # nothing is decoded yet
            width, height = header.size
    except OSError as error:
        raise fault('This file is not an image, or damaged. Upload a JPEG, PNG, WebP, BMP or TIFF file.') from error
    if width * height > megapixels * 1e6:
        raise fault(f'The image is too large: expected at most {megapixels} megapixels, got {width}x{height} pixels.')
    image = inference.read_image(Path(path))
    if image is None:
        raise fault('The image cannot be read: the file is damaged, or of a kind that OpenCV does not know.')
    scale = min(1, LARGEST_SIDE / max(width, height))
    return cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)


def predict(loaded: Loaded, path: str | None, score_thr: float, heat: bool, megapixels: int) -> tuple:
    """What the page shows of an image file.

    Returns:
        The drawing (H, W, 3), RGB; the heat map over the image as the network takes it, (h, w, 3), RGB, or None;
        numbers by class; and the time with the runtime, in words.
    """
    image = read(path, megapixels)
    start = time.perf_counter()
    drawn, result = loaded.network(image, Drawing(score_thr))
    seconds = time.perf_counter() - start
    overlay, said = heat_map(loaded.model, Path(path), score_thr) if heat and loaded.model else (None, '')
    text = f'{seconds:.2f} s for the image, with preparation and drawing; {loaded.runtime}. {said}'
    return np.ascontiguousarray(drawn[..., ::-1]), overlay, by_class(result, loaded.classes, score_thr), text


def by_class(result: Mapping, classes: Sequence[str] | None, score_thr: float) -> dict[str, float]:
    """Of each class the share of the pixels, the probability, or a detector's best score; from 0 to 1."""
    if 'shares' in result:
        return result['shares']
    if 'pred_scores' in result:
        return {classes[i] if classes else f'class {i}': score for i, score in enumerate(result['pred_scores'])}
    found = sorted(zip(result['scores'], result['classes'], strict=True))
    return {name: score for score, name in found if score > score_thr}  # the last of a name is its best


def heat_map(model: NamedModel, path: Path, score_thr: float) -> tuple[np.ndarray | None, str]:
    """Where the evidence for the best class lies, by Grad-CAM, over the image as the network takes it; and of what."""
    subject = prepare(model, path)
    score = None if subject is None else score_of(model, subject, None, score_thr)
    if score is None:
        return None, 'No heat map, since nothing scores higher.'
    with torch.no_grad():
        maps = model.stages(subject.x)
    fine = [i for i, y in enumerate(maps) if min(y.shape[2:]) >= 4]  # finer than which a map shows places
    name, layer = model.stage_modules[fine[-1] if fine else 0]
    with model.scope():
        activation = class_activation(model.module, layer, subject.x, score.function)
    title = class_name(model, score.label)
    height, width = subject.image.shape[:2]  # without padding
    overlay = Overlay(path.name, title, subject.image, activation[:height, :width])
    return overlay.blended, f'Heat map: evidence for {title} ({score.text}) in {name}, by Grad-CAM.'


def build(args: argparse.Namespace) -> gr.Blocks:
    """The page. Without --allow-weights, no request can name a config or a file."""
    fixed = None if args.allow_weights else load(args.config, args.checkpoint, args.model)
    detects, explains = fixed is None or fixed.detects, fixed is None or fixed.model is not None

    def show(path: str | None, score_thr: float, heat: bool, config: str | None = None, file: str | None = None):
        with faults_on_the_page():
            named = (None, None, file) if Path(file or '').suffix in SUFFIXES else (config or None, file or None)
            return predict(fixed or load(*named), path, score_thr, heat, args.max_megapixels)

    with gr.Blocks(title='mmsparx', analytics_enabled=False, delete_cache=(600, 3600), fill_width=True) as page:
        gr.Markdown(f'## {fixed.name if fixed else "Try a network of mmsparx"}')
        fields = []
        if fixed is None:
            names = [config.name for config in list_configs()]
            with gr.Row():
                fields = [
                    gr.Dropdown(names, value=args.config, label='Config of a checkpoint', allow_custom_value=True),
                    gr.Textbox(args.model or args.checkpoint, label='Checkpoint, or exported .onnx, .xml or .pt2'),
                ]
        with gr.Row():
            with gr.Column(scale=1):
                image = gr.Image(label='Image', sources=['upload', 'clipboard'], type='filepath', height=320)
                # The page passes the file itself, instead of gradio's image, so that `read` reports faults.
                image.preprocess = lambda payload: payload and payload.path
                score_thr = gr.Slider(0, 1, 0.3, step=0.05, label='Least score of detections', visible=detects)
                heat = gr.Checkbox(True, label='Heat map, which takes longer', visible=explains)
                start = gr.Button('Run', variant='primary')
                # gr.Examples would make the image component again, without that line.
                examples = gr.Dataset(label='Examples', components=[image], samples=example_files(args.examples))
            with gr.Column(scale=2):
                with gr.Row():
                    shown = {'height': 320, 'buttons': ['download', 'fullscreen']}
                    drawn = gr.Image(label='Result', **shown)
                    overlay = gr.Image(label='Heat map', visible=explains, **shown)
                classes = gr.Label(label='Classes', num_top_classes=5)
                about = gr.Textbox(label='Time and runtime', lines=2)
        options = dict(concurrency_id='network', concurrency_limit=1, api_visibility='private', show_progress_on=drawn)
        chosen = examples.click(lambda sample: sample[0], [examples], [image], api_visibility='private')
        for event in (start.click, image.upload, chosen.then):
            event(show, [image, score_thr, heat, *fields], [drawn, overlay, classes, about], **options)
    return page.queue(max_size=20)


def example_files(folder: str | None) -> list[list[str]]:
    """Copies of the images of a folder; without one, drawn shapes, on which the demo's detector is trained."""
    target = Path(tempfile.mkdtemp(prefix='mmsparx-examples-'))
    if folder is None:
        from make_shapes import write_split  # it needs pycocotools

        folder = write_split(target / 'drawn', 'val', 4).parents[1] / 'val'
    for path in (each for each in Path(folder).iterdir() if each.suffix.lower() in inference.SUFFIXES):
        shutil.copy(path, target)
    return [[str(path)] for path in sorted(target.glob('*.*'))]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the network, the address, and what visitors may do."""
    add_config_argument(parser, nargs='?')
    parser.add_argument('checkpoint', nargs='?', help='checkpoint file or address')
    parser.add_argument('--model', metavar='FILE', help='exported file, instead of a config and a checkpoint')
    parser.add_argument('--allow-weights', action='store_true', help='let the page choose config and file')
    parser.add_argument('--host', default=os.getenv('GRADIO_SERVER_NAME', LOCAL[0]), help='address that is served')
    parser.add_argument('--port', type=int, help='port (default: the first free one from 7860 on)')
    parser.add_argument('--examples', metavar='FOLDER', help='folder of example images (default: drawn shapes)')
    parser.add_argument('--max-megapixels', type=at_least(1), default=40, help='largest image (default: %(default)s)')


def run(args: argparse.Namespace) -> None:
    """Serve the page until Ctrl-C."""
    if args.allow_weights and args.host not in LOCAL:
        raise SystemExit(f'--allow-weights: expected --host to be one of {", ".join(LOCAL)}, got {args.host}')
    where = {'server_name': args.host, 'server_port': args.port, 'share': False, 'ssr_mode': False}
    build(args).launch(**where, theme=THEME, css=CSS, max_file_size='50mb', footer_links=[])


COMMAND = Command('app', 'serve a page to try a network', add_arguments, run, __doc__)

if __name__ == '__main__':
    sys.exit(COMMAND.main())
