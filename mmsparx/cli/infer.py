"""`mmsparx infer`, and demo/infer.py."""

import argparse

from mmsparx.cli.arguments import FILES, FOLDERS, add_config_argument, at_least, completed, share
from mmsparx.cli.running import Command

DESCRIPTION = """\
Show what a trained network sees in an image, a folder of images, a video or a camera.

Works with any config of this package and a checkpoint of it: detection, segmentation or classification, by the
inferencer of mmdet, mmseg or mmpretrain. Writes each image with what was found drawn into it, and the predictions as
JSON; a segmentation's label map as PNG, too. Each class is drawn in one colour; the JSON has all predictions, also
those that are not drawn (--score-thr, --max-overlap). What cannot be read is passed over, and named at the end; the
exit status is 1 then. No result is written onto an input or among the inputs, and no two have one name: beside a.png,
the predictions of a.jpg are in a.jpg.json.

    mmsparx infer street.jpg CONFIG CHECKPOINT
    mmsparx infer photos/ CONFIG CHECKPOINT --out-dir found --device cpu
    mmsparx infer 0 CONFIG CHECKPOINT            # the first camera; Ctrl-C ends it
    mmsparx infer photos/ --model FILE.onnx      # what `mmsparx export` has written: .onnx, .xml or .pt2
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of an inference."""
    source = parser.add_argument('source', help='image, folder of images, video, or the number of a camera')
    completed(source, FILES)
    add_config_argument(parser, nargs='?')
    completed(parser.add_argument('checkpoint', nargs='?', help='checkpoint file or address'), FILES)
    model = parser.add_argument(
        '--model', metavar='FILE', help='exported file, instead of a config and a checkpoint; it runs on the CPU'
    )
    completed(model, FILES)
    out_dir = parser.add_argument(
        '--out-dir', default='found', metavar='FOLDER', help='folder of the results (default: %(default)s)'
    )
    completed(out_dir, FOLDERS)
    parser.add_argument('--device', help='device, such as cpu or cuda:0 (default: a GPU if there is one)')
    parser.add_argument(
        '--score-thr',
        type=float,
        default=0.3,
        metavar='SCORE',
        help='lowest score of drawn results (default: %(default)s)',
    )
    parser.add_argument(
        '--max-overlap',
        type=share,
        default=0.6,
        metavar='IOU',
        help='overlap above which only the best detection is drawn, whatever the classes, since the others are of the '
        'same object and labels would hide each other; a higher --score-thr would hide other objects as well. 1 draws '
        'all (default: %(default)s)',
    )
    parser.add_argument(
        '--max-frames',
        type=at_least(1, '; without it, all are read'),
        metavar='N',
        help='number of images to read',
    )


def run(args: argparse.Namespace) -> int:
    """Show a network the images; returns 1 where some cannot be read."""
    from mmsparx.engine.inference import run_inference

    return run_inference(args)


COMMAND = Command('infer', 'show a trained network images, a video or a camera', add_arguments, run, DESCRIPTION)
