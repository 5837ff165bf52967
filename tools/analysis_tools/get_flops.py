"""Count the multiply-adds and parameters of what a config describes, as the papers do.

--paper counts every config that a metafile has, and prints them beside the paper's figures as Markdown; that is
docs/paper_against_counted.md.

One multiply-add is one FLOP. Convolutions, linear layers, attention products and the selective scan count;
norms, activations and other elementwise work do not, but with --norms, norms do, as some papers have it. Nothing is
computed: the model is on torch's meta device.
A two-stage detector is counted with 1000 regions in the box head and 100 in the mask head, a segmenter without its
auxiliary head. Of a model whose forward needs more than an image, as a DETR's, --backbone counts the backbone.
"""

import argparse
from collections.abc import Iterable

import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from mmsparx.analysis import complexity, two_stage_complexity
from mmsparx.analysis.complexity import Complexity
from mmsparx.engine.options import add_option_arguments, apply_options
from mmsparx.zoo import find_config, list_configs, paper_figures, read_models, resolve_config

# Height and width that the papers count at, by the scope of a config.
SHAPES = {'mmdet': (800, 1280), 'mmseg': (512, 2048), 'mmpretrain': (224, 224)}

PAPER = """\
# The paper's figures against counted ones

Written by `python tools/analysis_tools/get_flops.py --paper`, which takes a few minutes. **"Paper" is what the paper
prints** (for `vmamba_t_s1l8_in1k`, which it does not have, what VMamba's authors print); the rest is counted.

One multiply-add is one FLOP, of one image of 224x224 for classification, 512x2048 for segmentation, and 800x1280 with
1000 regions for detection. The paper mixes two rules: without norms, and with them. A row agrees where parameters and
GFLOPs are within 1 % of what is printed, or within its digits, whichever is wider; "with norms" where GFLOPs are so by
the second rule alone. "Design" says what a network was built from (determined by what is published, or fitted to the
paper's figures), and why a row does not agree.
"""
COLUMNS = (
    'config', 'M parameters: paper', 'counted', 'GFLOPs: paper', 'counted', 'with norms', 'agrees', 'design'
)  # fmt: skip


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument('config', nargs='?', help='config file, or the name of a shipped config')
    what.add_argument('--paper', action='store_true', help="print all shipped configs beside the paper's figures")
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
    add_option_arguments(parser)
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


def count_both(cfg: Config) -> tuple[Complexity, Complexity]:
    """What a shipped config's network costs: without norms, and with them."""
    init_default_scope(cfg.default_scope)
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    model.eval()
    height, width = choose_shape(cfg, None)
    return count(model, height, width, norms=False), count(model, height, width, norms=True)


def compare(model: dict, plain: Complexity, norms: Complexity) -> tuple[str, ...]:
    """The cells of `COLUMNS` for a model of a metafile, and what it costs."""
    params, flops = paper_figures(model)
    counts = plain.params / 1e6, plain.macs / 1e9, norms.macs / 1e9
    by_rule = [flops is None or flops.agrees(macs) for macs in counts[1:]]
    missed = [] if params is None or params.agrees(counts[0]) else ['parameters']
    missed += [] if any(by_rule) else ['GFLOPs']
    if missed:
        agrees = f'no: {", ".join(missed)}'
    elif params or flops:
        agrees = 'yes' if by_rule[0] else 'with norms'
    else:
        agrees = '-'
    counted = [f'{number:.2f}' for number in counts]
    figures = [str(figure or '-') for figure in (params, flops)]
    return model['Name'], figures[0], counted[0], figures[1], *counted[1:], agrees, model['Metadata']['Design']


def print_row(cells: Iterable[str]) -> None:
    print(f'| {" | ".join(cells)} |', flush=True)


def print_paper_table() -> None:
    """Every model of the metafiles, the paper's figures beside ours; a network of several configs is counted once."""
    MMLogger.get_current_instance().setLevel('ERROR')  # its stream is stdout as well
    costs = {}
    print(PAPER)
    print_row(COLUMNS)
    print_row(['---'] * len(COLUMNS))
    for task in dict.fromkeys(config.task for config in list_configs()):
        for name, model in read_models(task).items():
            cfg = Config.fromfile(find_config(name))
            network = repr(cfg.model)
            if network not in costs:
                costs[network] = count_both(cfg)
            print_row(compare(model, *costs[network]))


def main() -> None:
    args = parse_args()
    if args.paper:
        print_paper_table()
        return
    cfg = Config.fromfile(resolve_config(args.config))
    apply_options(cfg, args.cfg_options, args.allow_new_keys)
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
