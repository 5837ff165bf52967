"""`mmsparx analyze complexity`, and tools/analysis_tools/get_flops.py."""

import argparse
import json
import os
import sys
from typing import TYPE_CHECKING

from mmsparx.cli.arguments import CONFIGS, FILES, add_option_arguments, at_least, completed
from mmsparx.cli.running import Command

if TYPE_CHECKING:
    from torch import nn

    from mmsparx.analysis import Complexity

DESCRIPTION = """\
Count the multiply-adds and parameters of a model, as the papers do: of a config, a shipped config, or a model of timm.

--paper counts every config that a metafile has, and prints them beside the paper's figures as Markdown; that is
docs/paper_against_counted.md.

One multiply-add is one FLOP. Convolutions, linear layers, attention products and the selective scan count;
norms, activations and other elementwise work do not, but with --norms, norms do, as some papers have it. Nothing is
computed: the model is on torch's meta device.
A two-stage detector is counted with 1000 regions in the box head and 100 in the mask head, a segmenter without its
auxiliary head. Of a model whose forward needs more than an image, as a DETR's, --backbone counts the backbone.

    mmsparx analyze complexity mask_rcnn_sparx_t_1x
    mmsparx analyze complexity convnext_tiny --shape 384 384 --out convnext.json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of a count."""
    what = parser.add_mutually_exclusive_group(required=True)
    model = what.add_argument('config', nargs='?', help='config file, or the name of a shipped config or a timm model')
    completed(model, CONFIGS)
    what.add_argument('--paper', action='store_true', help="print all shipped configs beside the paper's figures")
    parser.add_argument(
        '--shape',
        type=at_least(1),
        nargs=2,
        metavar=('HEIGHT', 'WIDTH'),
        help='size of the image (default: 800 1280 for detection, 512 2048 for segmentation, 224 224 for '
        'classification)',
    )
    parser.add_argument('--backbone', action='store_true', help='count only the backbone')
    parser.add_argument(
        '--norms',
        action='store_true',
        help="count norms, and the scan's skip once for each direction, as fvcore does for VMamba's figures",
    )
    out = parser.add_argument('--out', metavar='FILE', help='write the counts to a .json or .md file, too')
    completed(out, FILES)
    parser.add_argument('--force', action='store_true', help='overwrite an existing file')
    add_option_arguments(parser)


def run(args: argparse.Namespace) -> None:
    """Count, and say it."""
    if args.paper:
        from mmsparx.cli.analyze.paper_table import print_paper_table

        print_paper_table()
        return
    check_out(args.out, args.force)
    from mmsparx.cli.analyze.counting import build, count, parts_of

    model, height, width = build(args.config, args.shape, args.cfg_options, args.allow_new_keys)
    title = f'{args.config} at {height}x{width}'
    backbone = getattr(model, 'backbone', None)
    if args.backbone:
        if backbone is None:
            raise ValueError(f'--backbone: {args.config} has no backbone that is counted alone')
        model, title = backbone, f'The backbone of {title}'
    parts = dict(parts_of(model))
    if backbone is not None and not args.backbone:
        parts['backbone'] = backbone
    counted = count(model, height, width, args.norms, parts)
    text = report(title, counted, parts, args.norms)
    sys.stdout.write(f'{text}\n')
    if args.out is not None:
        contents = as_json(title, counted, parts, args.norms) if args.out.endswith('.json') else f'```\n{text}\n```\n'
        with open(args.out, 'w', encoding='utf-8') as file:
            file.write(contents)


def check_out(out: str | None, force: bool) -> None:
    """Fail before anything is counted where the results could not be written."""
    if out is None:
        return
    if not out.endswith(('.json', '.md')):
        raise ValueError(f'--out: expected the name of a .json or .md file, got {out!r}')
    if os.path.lexists(out) and not force:
        raise FileExistsError(f'{out} exists already; name another file, or overwrite it with --force')


def report(title: str, counted: 'Complexity', parts: 'dict[str, nn.Module]', norms: bool) -> str:
    """The counts by operator and by part."""
    lines = [title, str(counted)]
    rows = [row for row in by_part(counted, parts) if row[0] != 'backbone']
    if rows:
        lines.append('by part:')
        lines += [f'  {macs / 1e9:10.3f} G {params / 1e6:8.2f} M  {name}' for name, params, macs in rows]
    for name, params, macs in by_part(counted, parts):
        if name == 'backbone':
            share = macs / counted.macs
            lines.append(f'of which the backbone: {params / 1e6:.2f} M, {macs / 1e9:.2f} G ({share:.0%})')
    also = 'activations' if norms else 'norms, activations'
    lines.append(f'One multiply-add is one FLOP, as in the papers; {also} and elementwise work count nothing.')
    return '\n'.join(lines)


def by_part(counted: 'Complexity', parts: 'dict[str, nn.Module]') -> list[tuple[str, int, int]]:
    """(name, parameters, multiply-adds) of the parts that have any."""
    rows = [
        (name, sum(x.numel() for x in part.parameters()), counted.macs_by_part[name]) for name, part in parts.items()
    ]
    return [row for row in rows if any(row[1:])]


def as_json(title: str, counted: 'Complexity', parts: 'dict[str, nn.Module]', norms: bool) -> str:
    """The counts as a JSON object."""
    found = {
        'model': title,
        'norms': norms,
        'parameters': counted.params,
        'multiply_adds': counted.macs,
        'by_operator': counted.macs_by_op,
        'by_part': {name: {'parameters': params, 'multiply_adds': n} for name, params, n in by_part(counted, parts)},
    }
    return json.dumps(found, indent=2) + '\n'


COMMAND = Command('complexity', 'count multiply-adds and parameters', add_arguments, run, DESCRIPTION)
