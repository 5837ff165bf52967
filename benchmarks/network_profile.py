"""The time of a network by kernel of a GPU, or by operator of a CPU, without the operators that it calls.

The cases are a classifier in inference and in training, and a detector's backbone in inference. Nothing is compared:
the profiler itself takes time between the kernels. `busy` is the share of the wall time in which kernels run; a case
far below 100 % is bound by launches.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from benchmarks import command_line, network
from benchmarks.report import environment, hardware_name, markdown
from mmsparx.analysis.timing import clock_of
from mmsparx.models import SparXMamba

CALLS = 3  # calls that are profiled, after as many that are not
LONGEST_NAME = 100


def cases(args: argparse.Namespace) -> dict[str, Callable[[], Callable[[], object]]]:
    """Functions that make a call to profile, by name. One call exists at a time, to save memory."""
    autocast, _ = network.PRECISIONS[args.precision]

    def classifier(mode: str) -> Callable[[], object]:
        call_of = network.inference_of if mode == 'inference' else network.training_of
        model = network.build('SparX-Mamba', 'tiny', scan_backend=args.scan_backend).to(args.device)
        return call_of(model, torch.randn(args.batch, 3, *args.image, device=args.device), autocast)

    def backbone() -> Callable[[], object]:
        model = SparXMamba('tiny', token_mixer=dict(type='SS2D', backend=args.scan_backend)).to(args.device)
        images = torch.randn(args.detection_batch, 3, *args.detection_image, device=args.device)
        return network.inference_of(_Last(model), images, autocast)

    size = 'x'.join(map(str, args.image))
    detection = 'x'.join(map(str, args.detection_image))
    return {
        f'inference, {size}, batch {args.batch}': lambda: classifier('inference'),
        f'training, {size}, batch {args.batch}': lambda: classifier('training'),
        f'backbone, {detection}, batch {args.detection_batch}': backbone,
    }


class _Last(nn.Module):
    """The last map of a backbone."""

    def __init__(self, backbone: nn.Module):
        super().__init__()
        self.backbone = backbone

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.backbone(images)[-1]


def measure(call: Callable[[], object], device: torch.device) -> dict:
    """Rows of kernels (operators on a CPU), slowest first, and totals; times in ms for one call."""
    for _ in range(CALLS):
        call()
    clock = clock_of(device)
    on_gpu = device.type == 'cuda'
    start = clock()
    for _ in range(CALLS):
        call()
    wall = (clock() - start) / CALLS
    with profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as profiler:
        for _ in range(CALLS):
            call()
        clock()
    rows = []
    for event in profiler.key_averages():
        taken = event.self_device_time_total if on_gpu else event.self_cpu_time_total  # in us
        if taken > 0:
            rows.append({'name': event.key, 'ms': taken / 1e3 / CALLS, 'calls': event.count / CALLS})
    if not rows:
        raise RuntimeError('the profiler has recorded no kernel')
    rows.sort(key=lambda row: -row['ms'])
    busy = sum(row['ms'] for row in rows)
    for row in rows:
        row['%'] = 100 * row['ms'] / busy
    return {'wall_ms': wall * 1e3, 'busy_ms': busy, 'kernels': rows}


def table(name: str, result: dict, most: int) -> str:
    """The slowest rows of one case as Markdown."""
    rows = [
        {'name': f'`{_short(row["name"])}`', 'ms': row['ms'], 'calls': row['calls'], '%': row['%']}
        for row in result['kernels'][:most]
    ]
    busy = 100 * result['busy_ms'] / result['wall_ms']
    others = len(result['kernels']) - len(rows)
    return (
        f'## {name}\n\n{result["wall_ms"]:.3g} ms a call without the profiler, {result["busy_ms"]:.3g} ms in kernels '
        f'(busy {busy:.0f} %)\n\n{markdown(rows)}' + (f'\n\n{others} more' if others else '')
    )


def _short(name: str) -> str:
    name = name.replace('|', '\\|').replace('`', "'")
    return name if len(name) <= LONGEST_NAME else f'{name[: LONGEST_NAME - 3]}...'


def main(argv: Sequence[str] | None = None) -> Path:
    argv = sys.argv[1:] if argv is None else list(argv)
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    add, size, positive = parser.add_argument, command_line.image_size, command_line.positive
    add('--device', type=command_line.device_of, default='cpu', help='cpu, cuda or cuda:N (default: cpu)')
    add('--image', type=size, default=(224, 224), metavar='HxW', help='classifier image (default: 224)')
    add('--batch', type=positive, default=128, help='classifier batch (default: 128)')
    add('--detection-image', type=size, default=(800, 1280), metavar='HxW', help='backbone image (default: 800x1280)')
    add('--detection-batch', type=positive, default=2, help='backbone batch (default: 2)')
    add('--precision', choices=network.PRECISIONS, default='bf16', help='(default: bf16)')
    add('--scan-backend', default='auto', help='backend of the selective scan (default: auto)')
    add('--most', type=positive, default=40, help='rows in a table (default: 40)')
    add('--out', type=Path, default=Path('work_dirs/benchmarks'), help='folder (default: %(default)s)')
    add('--name', default='network_profile', help='name of the files (default: %(default)s)')
    args = parser.parse_args(argv)
    facts = environment(args.device)
    path = args.out / hardware_name(facts) / f'{args.name}.json'
    path.parent.mkdir(parents=True, exist_ok=True)
    results, texts = {}, []
    with network.products_in_tf32(network.PRECISIONS[args.precision][1]):
        for name, make in cases(args).items():
            start = time.perf_counter()
            call = make()
            results[name] = measure(call, args.device)
            del call
            print(f'{name}: profiled in {time.perf_counter() - start:.0f} s', flush=True)
            texts.append(table(name, results[name], args.most))
            path.write_text(json.dumps({'environment': facts, 'cases': results}, indent=1) + '\n')
            path.with_suffix('.md').write_text('\n\n'.join(texts) + '\n')
    print('\n\n'.join(texts))
    return path


if __name__ == '__main__':
    main()
