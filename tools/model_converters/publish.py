"""Strip a checkpoint to what others need, and put its SHA-256 into its name: name-<first digits>.pth.

The weights are kept, and of the meta data the dataset's classes and colours; optimizer, history, config
and paths are not.
"""

import argparse

from mmsparx.engine.convert import publish
from mmsparx.models.weight_files import COPIES


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('source', help='checkpoint, or its address')
    parser.add_argument(
        'target',
        nargs='?',
        help='file to write, without the digits: .pth, .pt or .safetensors (default: beside the source)',
    )
    parser.add_argument(
        '--weights',
        choices=COPIES,
        default='auto',
        help='which copy of the weights: the averaged (ema) or the other (raw); auto: averaged, if it is there',
    )
    parser.add_argument('--force', action='store_true', help='write over the file if it is there')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    path, digest = publish(args.source, args.target, weights=args.weights, force=args.force)
    print(f'{path}\nSHA-256 {digest}')


if __name__ == '__main__':
    main()
