"""Write a file of weights under other names, or in another format, bit for bit.

Takes classification, detection and segmentation files, published ones and one's own. Of a training
checkpoint, weights and meta data are kept.

    convert.py sparx_mamba_tiny_in1k.pth tiny.safetensors --to ours
    convert.py work_dirs/x/epoch_36.pth detector.pth --to published --weights ema
"""

import argparse

from mmsparx.weights.convert import add_weight_arguments, convert


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument('source', help='file of weights, or its address')
    parser.add_argument('target', help='file to write: .pth, .pt or .safetensors')
    parser.add_argument(
        '--to',
        choices=['ours', 'published'],
        help="the names to write: this package's or those of the published checkpoints (default: as they are)",
    )
    add_weight_arguments(parser)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    written = convert(args.source, args.target, to=args.to, weights=args.weights, force=args.force)
    print(f'{args.target}: {len(written.state_dict)} tensors')
    if written.left_out:
        print(f'left out: {", ".join(written.left_out)}')


if __name__ == '__main__':
    main()
