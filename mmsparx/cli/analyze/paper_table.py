"""The paper's parameters and GFLOPs of every shipped config, beside counted ones."""

import sys
from collections.abc import Iterable

import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import MODELS, init_default_scope

from mmsparx.analysis import Complexity
from mmsparx.cli.analyze.counting import choose_shape, count
from mmsparx.zoo import find_config, list_configs, paper_figures, read_models

PAPER = """\
# The paper's figures against counted ones

Written by `mmsparx analyze complexity --paper`, which takes a few minutes. **"Paper" is what the paper
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


def count_both(cfg: Config) -> tuple[Complexity, Complexity]:
    """The costs of a shipped config's network, without norms and with them."""
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
    sys.stdout.write(f'| {" | ".join(cells)} |\n')
    sys.stdout.flush()  # a row takes seconds


def print_paper_table() -> None:
    """Every model of the metafiles, the paper's figures beside ours; a network of several configs is counted once."""
    MMLogger.get_current_instance().setLevel('ERROR')  # its stream is stdout as well
    costs = {}
    sys.stdout.write(f'{PAPER}\n')
    print_row(COLUMNS)
    print_row(['---'] * len(COLUMNS))
    for task in dict.fromkeys(config.task for config in list_configs()):
        for name, model in read_models(task).items():
            cfg = Config.fromfile(find_config(name))
            network = repr(cfg.model)
            if network not in costs:
                costs[network] = count_both(cfg)
            print_row(compare(model, *costs[network]))
