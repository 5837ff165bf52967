"""`mmsparx export`."""

import argparse
import re
import sys

from mmsparx.cli.arguments import FILES, FOLDERS, add_config_argument, completed
from mmsparx.cli.running import Command

FORMATS = {'onnx': '.onnx', 'openvino': '.xml', 'pt2': '.pt2'}

DESCRIPTION = """\
Write a trained network as one file for another runtime: ONNX, OpenVINO, or torch.export's .pt2.

Classifiers, backbones, segmenters, and detectors with their masks (Faster R-CNN, Mask R-CNN). The file takes prepared
images of any size from 32 on; a JSON file beside it says how they are prepared, and names the classes. `mmsparx infer
IMAGES --model FILE` runs it.

The file is run and compared with the network at four sizes: the largest error is printed, and above 1e-4 of the largest
value no file is left. Needs pip install 'mmsparx[export]'.

    mmsparx export CONFIG CHECKPOINT --to onnx
    mmsparx export CONFIG CHECKPOINT --to openvino --static 224x224 --out network.xml
    mmsparx export CONFIG CHECKPOINT --to onnx --int8 data/train
"""


def size(text: str) -> tuple[int, int]:
    """'HxW' -> (H, W)."""
    found = re.fullmatch(r'(\d+)x(\d+)', text)
    if not found:
        raise argparse.ArgumentTypeError(f'expected a height and a width in pixels, as in 224x224, got {text!r}')
    return int(found[1]), int(found[2])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of an export."""
    add_config_argument(parser)
    completed(parser.add_argument('checkpoint', help='checkpoint file or address'), FILES)
    parser.add_argument('--to', choices=FORMATS, required=True, help='format of the file')
    parser.add_argument(
        '--static', type=size, metavar='HxW', help='fix the size of the image, in pixels, and the batch to one image'
    )
    parser.add_argument(
        '--inline',
        action='store_true',
        help='ONNX with only standard operators, for runtimes without functions, such as TensorRT',
    )
    parser.add_argument('--fp16', action='store_true', help='ONNX with weights in 16 bits and arithmetic in 32 bits')
    int8 = parser.add_argument(
        '--int8',
        metavar='FOLDER',
        help='write another ONNX file, NAME.int8.onnx, with convolutions and products in 8 bits, calibrated on up '
        'to 64 images of this folder; measure its accuracy before you use it',
    )
    completed(int8, FOLDERS)
    parser.add_argument('--backbone', action='store_true', help='export only the backbone: a map for each stage')
    out = parser.add_argument('--out', metavar='FILE', help="file to write (default: the config's name, here)")
    completed(out, FILES)


def run(args: argparse.Namespace) -> None:
    """Export, and say how the file was compared."""
    from mmsparx.cli.described import export_named
    from mmsparx.cli.models import load_model

    model = load_model(args.config, args.checkpoint, device='cpu')
    file = args.out or f'{model.label}{FORMATS[args.to]}'
    if not file.endswith(FORMATS[args.to]):
        raise ValueError(f'--out: expected a file that ends in {FORMATS[args.to]} for --to {args.to}, got {file}')
    if args.int8 is not None and args.to != 'onnx':
        raise ValueError(f'--int8: expected --to onnx, got --to {args.to}')
    if args.int8 is not None:
        from mmsparx.engine.calibration import calibration_images, write_int8

        images = calibration_images(args.int8)  # first, since an export takes long
    done = export_named(model, file, static=args.static, inline=args.inline, fp16=args.fp16, backbone=args.backbone)
    sys.stdout.write(f'{done}\n')
    if args.int8 is not None:
        sys.stdout.write(f'wrote {write_int8(done.file, images)}\n')


COMMAND = Command(
    'export', 'write a trained network for ONNX, OpenVINO or torch.export', add_arguments, run, DESCRIPTION
)
