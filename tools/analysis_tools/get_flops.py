"""Count the multiply-adds and parameters of what a config describes, as the papers do.

One multiply-add is one FLOP. Convolutions, linear layers, attention products and the selective scan count;
norms, activations and other elementwise work do not, but with --norms, norms do, as some papers have it. Nothing is
computed: the model is on torch's meta device.
A two-stage detector is counted with 1000 regions in the box head and 100 in the mask head, a segmenter without its
auxiliary head. Of a model whose forward needs more than an image, as a DETR's, --backbone counts the backbone.
"""

import argparse

import torch
from mmengine.config import Config, DictAction
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from mmsparx.analysis import complexity, two_stage_complexity
from mmsparx.analysis.complexity import Complexity
from mmsparx.zoo import resolve_config

# Height and width that the papers count at, by the scope of a config.
SHAPES = {'mmdet': (800, 1280), 'mmseg': (512, 2048), 'mmpretrain': (224, 224)}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config file, or the name of a shipped config')
    parser.add_argument(
        '--shape',
        type=int,
        nargs=2,
        metavar=('HEIGHT', 'WIDTH'),
        help='of the picture (default: 800 1280 for detection, 512 2048 for segmentation, 224 224 for classification)',
    )
    parser.add_argument('--backbone', action='store_true', help='count the backbone alone')
    parser.add_argument(
        '--norms',
        action='store_true',
        help="count norms, and the scan's skip once for each direction, as fvcore does for VMamba's figures",
    )
    parser.add_argument(
        '--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE', help='override settings of the config'
    )
    return parser.parse_args()


def choose_shape(cfg: Config, shape: list[int] | None) -> tuple[int, int]:
    """(height, width) of the picture.

    Raises:
        ValueError: sides below 1, or none for a config of an unknown library.
    """
    scope = cfg.get('default_scope')
    if shape is None and scope not in SHAPES:
        raise ValueError(f'--shape HEIGHT WIDTH is needed for a config whose default_scope is {scope!r}')
    height, width = shape or SHAPES[scope]
    if min(height, width) < 1:
        raise ValueError(f'--shape: expected a height and a width of at least 1, got {height} {width}')
    return height, width


def count(model: nn.Module, height: int, width: int, norms: bool) -> Complexity:
    """What a forward pass of one image costs; the model is on the meta device, in evaluation mode.

    Raises:
        ValueError: A two-stage detector without a neck, or with several stages of box heads.
    """
    if hasattr(model, 'roi_head'):
        if not model.with_neck or isinstance(model.roi_head.bbox_head, nn.ModuleList):
            raise ValueError(
                'two-stage detectors are counted with a neck and one box head, as Mask R-CNN has them; '
                'of this one, --backbone counts the backbone'
            )
        return two_stage_complexity(model, height, width, norms=norms)
    return complexity(model, torch.empty(1, 3, height, width, device='meta'), norms=norms)


def main() -> None:
    args = parse_args()
    cfg = Config.fromfile(resolve_config(args.config))
    if args.cfg_options:
        cfg.merge_from_dict(args.cfg_options)
    height, width = choose_shape(cfg, args.shape)
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    # Some networks read their rates from tensors while they are built, so it is built first and moved then.
    model = MODELS.build(cfg.model).to('meta')
    model.eval()  # which does not return the model for all of mmdet's backbones
    backbone = count(model.backbone, height, width, args.norms)
    if args.backbone:
        print(f'The backbone of {args.config} at {height}x{width}\n{backbone}')
    else:
        whole = count(model, height, width, args.norms)
        print(f'{args.config} at {height}x{width}\n{whole}')
        share = backbone.macs / whole.macs
        print(f'of which the backbone: {backbone.params / 1e6:.2f} M, {backbone.macs / 1e9:.2f} G ({share:.0%})')
    also = 'activations' if args.norms else 'norms, activations'
    print(f'One multiply-add is one FLOP, as in the papers; {also} and elementwise work count nothing.')


if __name__ == '__main__':
    main()
