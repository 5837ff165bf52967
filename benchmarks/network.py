"""The speed of SparX-Mamba and VMamba against timm's Swin and ConvNeXt: ImageNet classifiers of 1000 classes.

A training step is forward, cross-entropy, backward and AdamW; stochastic depth is off in all
networks, whose weights are random.
"""

import gc
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import timm
import torch
from torch import Tensor, nn

from benchmarks import command_line, mamba
from benchmarks.report import Comparison, Report, markdown
from mmsparx.analysis.precision import PRECISIONS, products_in_tf32
from mmsparx.analysis.saved import kept_bytes
from mmsparx.analysis.timing import Protocol, clock_of, interleave, peak_memory
from mmsparx.layers.mixers import SS2D
from mmsparx.models import SparXClassifier, SparXMamba, VMamba
from mmsparx.ops.selective_scan.backends import check_name

SIZES = ('tiny', 'small', 'base')
OURS = {'SparX-Mamba': SparXMamba, 'VMamba': VMamba}
FAMILIES = (*OURS, 'Swin', 'ConvNeXt')
BASELINE = 'Swin'
MODES = ('inference', 'training')
COMPILED = ' compiled'


def build(family: str, size: str, image: tuple[int, int] = (224, 224), scan_backend: str = 'auto') -> nn.Module:
    """A classifier with random weights: (B, 3, *image) -> (B, 1000).

    Args:
        family: Family of networks, one of `FAMILIES`.
        size: Size of the network, one of `SIZES`.
        image: Height and width, in pixels, which Swin is built for.
        scan_backend: Backend of the selective scan in this package's networks.
    """
    if family in OURS:
        backbone = OURS[family](size, out_indices=(3,), output_norm=False)
        for module in backbone.modules():
            if isinstance(module, SS2D):
                module.backend = scan_backend
        return SparXClassifier(backbone)
    if family == 'Swin':
        return timm.create_model(f'swin_{size}_patch4_window7_224', img_size=image, drop_path_rate=0.0)
    return timm.create_model(f'convnext_{size}', drop_path_rate=0.0)


def inference_of(model: nn.Module, images: Tensor, autocast: torch.dtype | None = None) -> Callable[[], Tensor]:
    """A call that classifies the images."""
    model.eval()

    def infer() -> Tensor:
        with torch.inference_mode(), _autocast(images, autocast):
            return model(images)

    return infer


def training_of(model: nn.Module, images: Tensor, autocast: torch.dtype | None = None) -> Callable[[], Tensor]:
    """A call that takes a training step on the images, with labels drawn once, and returns the loss."""
    model.train()
    labels = torch.randint(1000, (len(images),), generator=torch.Generator().manual_seed(0)).to(images.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    scaler = torch.amp.GradScaler(images.device.type, enabled=autocast == torch.float16)

    def step() -> Tensor:
        with _autocast(images, autocast):
            loss = nn.functional.cross_entropy(model(images), labels)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()  # last: the gradients are part of this step's memory, not of the next contender's
        return loss.detach()

    return step


def kept_by_forward(model: nn.Module, images: Tensor, autocast: torch.dtype | None = None) -> int:
    """Bytes that a forward pass in training leaves allocated: its output, and tensors for the backward.

    The 16-bit copies of weights, which autocast makes once for all images, do not count.
    """
    model.train()
    with _autocast(images, autocast):
        return kept_bytes(lambda: model(images), images.device)


def _autocast(images: Tensor, dtype: torch.dtype | None):
    return torch.autocast(images.device.type, dtype, enabled=dtype is not None)


def compare(
    models: dict[str, nn.Module],
    images: Tensor,
    mode: str,
    protocol: Protocol,
    precision: str = 'fp32',
    case: dict[str, str | int] | None = None,
) -> Comparison:
    """Time classifiers of any make on the same images.

    Args:
        models: Models by name, on the images' device.
        images: Images (B, 3, H, W).
        mode: Mode, one of `MODES`.
        protocol: Protocol of the measurement.
        precision: Precision, one of `PRECISIONS`.
        case: Description of the case.
    """
    autocast, tf32 = PRECISIONS[precision]
    call_of = inference_of if mode == 'inference' else training_of
    with products_in_tf32(tf32):
        calls = {name: call_of(model, images, autocast) for name, model in models.items()}
        timings = interleave(calls, protocol, clock_of(images.device))
        for name, timing in timings.items():
            timing.facts['parameters'] = sum(parameter.numel() for parameter in models[name].parameters())
            if timing.skipped is None and mode == 'training':
                timing.facts['kept_bytes'] = kept_by_forward(models[name], images, autocast)
            if timing.skipped is not None or images.device.type != 'cuda':
                continue
            try:
                timing.facts['peak_bytes'] = peak_memory(calls[name], images.device)
            except Exception as error:
                timing.skip(error)
    return Comparison(case or {}, timings)


def contenders(families: Sequence[str], size: str, scan_backends: Sequence[str]) -> dict[str, dict[str, str]]:
    """Arguments of `build` by the name of the network; this package's occur with every backend of their scan."""
    found = {}
    for family in families:
        options = dict(family=family, size=size)
        name = f'{family}-{size[0].upper()}'
        if family in OURS and len(scan_backends) > 1:
            found |= {f'{name}/{backend}': options | {'scan_backend': backend} for backend in scan_backends}
        elif family in OURS:
            found[name] = options | {'scan_backend': scan_backends[0]}
        else:
            found[name] = options
    return found


def comparisons(args, protocol: Protocol) -> Iterator[Comparison]:
    """Comparisons of all cases that the options name, one after the other."""
    layout = torch.channels_last if args.channels_last else torch.contiguous_format
    for size in args.sizes:
        for image in args.images:
            for mode in args.modes:
                for batch in args.batches if mode == 'inference' else args.train_batches:
                    case = {'size': size, 'image': 'x'.join(map(str, image)), 'mode': mode, 'batch': batch}
                    # Models are new for every case: a model compiled for one batch would be compiled for any batch the
                    # next time, which is slower.
                    if args.compile:
                        torch.compiler.reset()
                    models = {}
                    for name, options in contenders(args.families, size, args.scan_backend).items():
                        torch.manual_seed(0)
                        model = build(**options, image=image).to(args.device, memory_format=layout)
                        models[name] = model
                        if args.compile:
                            models[name + COMPILED] = torch.compile(model, dynamic=False, mode=args.compile)
                    images = torch.randn(batch, 3, *image).to(args.device, memory_format=layout)
                    yield compare(models, images, mode, protocol, args.precision, case)
                    del models, model
                    gc.collect()


def tables(report: Report) -> str:
    """All contenders, beside Swin of their size, eager and compiled, and the same network with its first scan."""
    return '\n\n'.join(
        f'## {mode.capitalize()}\n\n{markdown(rows)}'
        for mode in MODES
        if (rows := [row for c in report.comparisons if c.case['mode'] == mode for row in _rows(c)])
    )


def _rows(comparison: Comparison) -> Iterator[dict]:
    case, measured = comparison.case, comparison.measured
    baselines = [f'{BASELINE}-{case["size"][0].upper()}{suffix}' for suffix in ('', COMPILED)]
    for name, timing in comparison.timings.items():
        row = {'image': case['image'], 'batch': case['batch'], 'network': name}
        row['parameters (M)'] = timing.facts['parameters'] / 1e6
        if timing.skipped is not None:
            yield {**row, 'remark': f'skipped: {timing.skipped}'}
            continue
        row |= {'images/s': case['batch'] / timing.median, 'ms': timing.median * 1e3}
        row |= {'minimum': timing.minimum * 1e3, 'IQR': timing.iqr * 1e3, 'samples': len(timing.seconds)}
        for baseline, suffix in zip(baselines, ('', COMPILED), strict=True):
            if baseline in measured:
                row[f'speed / {BASELINE}{suffix}'] = measured[baseline].median / timing.median
        alike = [other for other in measured if _scan_of(other) and other.endswith(COMPILED) == name.endswith(COMPILED)]
        if _scan_of(name):
            row[f'time / {_scan_of(alike[0])} scan'] = timing.median / measured[alike[0]].median
        if 'kept_bytes' in timing.facts:
            row['kept (MiB/image)'] = timing.facts['kept_bytes'] / 2**20 / case['batch']
        if 'peak_bytes' in timing.facts:
            row['peak (GiB)'] = timing.facts['peak_bytes'] / 2**30
        yield row


def _scan_of(name: str) -> str:
    """The backend in a network's name; '' if it has none."""
    return name.removesuffix(COMPILED).partition('/')[2]


def main(argv: Sequence[str] | None = None) -> Path:
    argv = sys.argv[1:] if argv is None else list(argv)
    parser = command_line.parser_of(__doc__)
    positive, size = command_line.positive, command_line.image_size
    add = parser.add_argument
    add('--sizes', nargs='+', choices=SIZES, default=SIZES, help='(default: all)')
    add('--families', nargs='+', choices=FAMILIES, default=FAMILIES, help='(default: all)')
    add('--images', nargs='+', type=size, default=[(224, 224)], metavar='HxW', help='(default: 224)')
    add('--modes', nargs='+', choices=MODES, default=MODES, help='(default: both)')
    add('--batches', nargs='+', type=positive, default=[1, 8], metavar='N', help='for inference (default: 1 8)')
    add('--train-batches', nargs='+', type=positive, default=[2], metavar='N', help='for training (default: 2)')
    add('--precision', choices=PRECISIONS, default='fp32', help='tf32 needs a GPU; 16 bits by autocast (default: fp32)')
    add('--channels-last', action='store_true', help='lay images and weights out channels last')
    add(
        '--scan-backend',
        nargs='+',
        default=['auto'],
        metavar='NAME',
        help=f"backends of this package's scan, each timed; {mamba.NAME} is that package's (default: auto)",
    )
    add(
        '--compile',
        nargs='?',
        const='default',
        choices=('default', 'reduce-overhead', 'max-autotune'),
        help='time each network compiled as well, in this mode of torch.compile',
    )
    args = parser.parse_args(argv)
    with mamba.as_backend():
        return _run(parser, args, argv)


def _run(parser, args, argv: Sequence[str]) -> Path:
    if args.precision == 'tf32' and args.device.type != 'cuda':
        parser.error('--precision tf32: only a GPU has it; add --device cuda, or take fp32')
    try:
        for name in args.scan_backend:
            check_name(name, '--scan-backend')
    except ValueError as error:
        parser.error(str(error))
    protocol = command_line.prepare(parser, args)
    return command_line.run('network', args, argv, comparisons(args, protocol), tables, args.precision)


if __name__ == '__main__':
    main()
