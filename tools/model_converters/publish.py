"""Strip a checkpoint to what others need, and put its SHA-256 into its name: name-<first digits>.pth.

The weights are kept, and of the meta data the dataset's classes and colours; optimizer, history, config
and paths are not.
"""

import argparse

from mmsparx.weights.convert import add_weight_arguments, publish


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument('source', help='checkpoint, or its address')
    parser.add_argument(
        'target',
        nargs='?',
        help='file to write, without the digits: .pth, .pt or .safetensors (default: beside the source)',
    )
    add_weight_arguments(parser)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    path, digest = publish(args.source, args.target, weights=args.weights, force=args.force)
    print(f'{path}\nSHA-256 {digest}')


if __name__ == '__main__':
    main()
