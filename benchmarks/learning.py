"""The accuracy of small networks trained from scratch, for the paper's variants.

Every run is tools/train.py on the CPU, with a config of configs/classification/ and another backbone in it. All
variants of a task have the same iterations, batches, learning rates and seeds. The last evaluation counts, not the
best.

- comparison: scikit-learn's digits, as tools/dataset_converters/digits.py writes them to data/digits, and networks with
  the layers and connections of SparX-Mamba-T and few channels.
- digits: the same images, and the config's small network with every token mixer and every aggregator.
- overfit: these networks train and are evaluated on the few images of data/imagenet/train.
"""

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from benchmarks import command_line
from benchmarks.report import ROOT, Comparison, Report, markdown
from mmsparx.analysis import Complexity, complexity
from mmsparx.analysis.timing import Timing
from mmsparx.engine.outputs import check_writable
from mmsparx.models import SparXMamba, StagePlan

CONFIGS = ROOT / 'configs' / 'classification'
METRIC = 'accuracy/top1'
LOGGED_EVERY = 10  # iterations, over which the logged loss is a mean
WARM_UP = 20  # iterations, as both configs have it


def as_sparx(plan: StagePlan) -> StagePlan:
    return plan


def as_plain(plan: StagePlan) -> StagePlan:
    """No ganglion layers."""
    return StagePlan(plan.depth)


def as_dgc(plan: StagePlan) -> StagePlan:
    """The same ganglion layers, each of which reads the stage's input and all layers before it."""
    return plan if plan.stride is None else replace(plan, window=None, dense=True)


def as_dsn(plan: StagePlan) -> StagePlan:
    """All layers of a stage with ganglion layers are ganglion layers, each of which reads all before it."""
    return plan if plan.stride is None else StagePlan(plan.depth, stride=1)


@dataclass(frozen=True)
class Variant:
    """Differences of a variant from SparX-Mamba.

    Attributes:
        connections: Function from a stage's plan to the variant's.
        options: Options of the backbone.
        style: Style of the head, which is the backbone's.
    """

    connections: Callable[[StagePlan], StagePlan] = as_sparx
    options: Mapping = field(default_factory=dict)
    style: str = 'sparx'


VARIANTS = {
    'plain': Variant(as_plain),
    'SparX': Variant(),
    'DGC': Variant(as_dgc),
    'DSN': Variant(as_dsn),
    'w/o GCCA': Variant(options={'aggregator': {'type': 'NoAttention'}}),
    'Concat': Variant(options={'aggregator': {'type': 'Concat'}}),
    'w/o shortcut': Variant(options={'aggregator': {'type': 'DMCA', 'shortcut': False}}),
    'SRA': Variant(options={'aggregator': {'type': 'SRA'}}),
    'SCA': Variant(options={'aggregator': {'type': 'SCA'}}),
    'SCA, own tokens': Variant(options={'aggregator': {'type': 'SCA', 'own_tokens': True}}),
    'SSM': Variant(options={'style': 'vmamba', 'token_mixer': {'type': 'SSM'}}, style='vmamba'),
    'Bi-SSM': Variant(options={'style': 'vmamba', 'token_mixer': {'type': 'BiSSM'}}, style='vmamba'),
    'SparX-Swin': Variant(options={'type': 'mmsparx.SparXSwin'}, style='swin'),
    'VMamba': Variant(as_plain, {'type': 'mmsparx.VMamba'}, style='vmamba'),
}
COMPARED = ('plain', 'SparX', 'DGC', 'DSN', 'w/o GCCA', 'Concat')
# Every token mixer and every aggregator occurs at least once.
PARTS = tuple(name for name in VARIANTS if name not in ('plain', 'DGC', 'DSN'))


@dataclass(frozen=True)
class Task:
    """A training task.

    Attributes:
        config: Name of a config in `CONFIGS`.
        side: Height and width of its images, in pixels.
        variants: Names in `VARIANTS`.
        iterations: Number of batches.
        batch: Number of images in a batch.
        lr: Highest learning rate.
        seeds: Seeds of the initial weights and of the order of the images.
        channels: Channels of the four stages, with the layers and connections of SparX-Mamba-T; None for the config's
            own network.
    """

    config: str
    side: int
    variants: tuple[str, ...]
    iterations: int
    batch: int
    lr: float
    seeds: tuple[int, ...] = (0,)
    channels: tuple[int, ...] | None = None


DIGITS = 'sparx_mamba_mini_digits.py'
TASKS = {
    'comparison': Task(DIGITS, 32, COMPARED, 100, 32, 4e-3, seeds=(0, 1, 2), channels=(16, 32, 48, 64)),
    'digits': Task(DIGITS, 32, PARTS, 60, 64, 2e-3),
    'overfit': Task('sparx_mamba_mini_overfit.py', 128, PARTS, 60, 8, 2e-3),
}


def write_config(path: Path, task: Task, name: str) -> Config:
    """Write the config of a variant, whose base is the task's, and return it.

    Args:
        path: File to write.
        task: Task that is trained.
        name: Name in `VARIANTS`.
    """
    base = CONFIGS / task.config
    arch = Config.fromfile(base).model.backbone.arch
    stages = [StagePlan.of(stage) for stage in arch.stages]
    if task.channels is not None:
        stages = SparXMamba.ARCHITECTURES['tiny'].stages
    channels = list(task.channels or arch.channels)
    variant = VARIANTS[name]
    arch = dict(channels=channels, stages=[asdict(variant.connections(stage)) for stage in stages])
    model = dict(backbone=dict(arch=arch, **variant.options), head=dict(in_channels=channels[-1], style=variant.style))
    path.write_text(f'_base_ = {str(base)!r}\nmodel = {model!r}\n')
    return Config.fromfile(path)


def schedule(task: Task, seed: int) -> dict[str, object]:
    """Settings of the config by --cfg-options of tools/train.py."""
    return {
        'randomness.seed': seed,
        'train_dataloader.batch_size': task.batch,
        'optim_wrapper.optimizer.lr': task.lr,
        'param_scheduler.0.end': min(WARM_UP, task.iterations - 1),
        'param_scheduler.1.T_max': task.iterations,
        'param_scheduler.1.end': task.iterations,
        'train_cfg.max_iters': task.iterations,
        'train_cfg.val_interval': -(-task.iterations // 2),
        'default_hooks.logger.interval': LOGGED_EVERY,
        'default_hooks.checkpoint.interval': task.iterations,
    }


def count(cfg: Config, side: int) -> Complexity:
    """Parameters of a config's network, and multiply-adds of an image."""
    init_default_scope(cfg.default_scope)
    with torch.device('meta'):
        model = MODELS.build(cfg.model).eval()
    return complexity(model, torch.empty(1, 3, side, side, device='meta'))


def train(config: Path, work_dir: Path, options: Mapping[str, object]) -> list[dict]:
    """Train through the tool in a process of its own, and return its log entries, in order.

    Raises:
        RuntimeError: The tool fails; the message has the end of its output.
    """
    tool = str(ROOT / 'tools' / 'train.py')
    settings = [f'{key}={value}' for key, value in options.items()]
    done = subprocess.run(
        [sys.executable, tool, str(config), '--work-dir', str(work_dir), '--cfg-options', *settings],
        env={**os.environ, 'CUDA_VISIBLE_DEVICES': '', 'OMP_NUM_THREADS': str(torch.get_num_threads())},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f'tools/train.py ended with {done.returncode}:\n{done.stdout[-2000:]}')
    (log,) = work_dir.glob('*/vis_data/scalars.json')
    return [json.loads(line) for line in log.read_text().splitlines()]


def kept_as(name: str, seed: int) -> str:
    """Name of a trained network's files below `--keep`, without a suffix."""
    return f'{re.sub("[^a-z0-9]+", "_", name.lower())}_seed{seed}'


def measure(task: Task, name: str, seed: int, keep: Path | None = None) -> Timing:
    """Train one variant once: seconds per iteration, and its accuracies as facts.

    Args:
        task: Task that is trained.
        name: Name in `VARIANTS`.
        seed: Seed of the run.
        keep: Folder to copy the config, as one file, and the last checkpoint to.
    """
    with tempfile.TemporaryDirectory() as folder:
        config, work_dir = Path(folder, 'config.py'), Path(folder, 'work')
        counted = count(write_config(config, task, name), task.side)
        logged = train(config, work_dir, schedule(task, seed))
        if keep is not None:
            kept = keep / kept_as(name, seed)
            shutil.copy(work_dir / config.name, kept.with_suffix('.py'))
            shutil.copy(work_dir / f'iter_{task.iterations}.pth', kept.with_suffix('.pth'))
    steps = [line for line in logged if 'loss' in line]
    half, end = [line[METRIC] for line in logged if METRIC in line]
    facts = {'parameters': counted.params, 'multiply_adds': counted.macs}
    facts |= {'accuracy_at_half': half, 'accuracy': end, 'loss': steps[-1]['loss']}
    return Timing([line['time'] for line in steps], LOGGED_EVERY, facts=facts)


def comparisons(task: Task, keep: Path | None = None) -> Iterator[Comparison]:
    """All variants with one seed after the other; see `measure`."""
    case = {'iterations': task.iterations, 'batch': task.batch, 'learning rate': task.lr}
    for seed in task.seeds:
        timings = {}
        for name in task.variants:
            timings[name] = measure(task, name, seed, keep)
            print(f'{name}, seed {seed}: {timings[name].facts["accuracy"]:.2f} %', flush=True)
        yield Comparison({'seed': seed, **case}, timings)


def tables(report: Report) -> str:
    """Accuracy in per cent of every variant with every seed; mean and standard deviation over the seeds."""
    names = dict.fromkeys(name for comparison in report.comparisons for name in comparison.timings)
    case = {key: value for key, value in report.comparisons[0].case.items() if key != 'seed'}
    caption = ', '.join(f'{key} {value}' for key, value in case.items())
    return f'{caption}; accuracies in per cent\n\n{markdown([_row(report, name) for name in names])}'


def _row(report: Report, name: str) -> dict[str, object]:
    runs = {c.case['seed']: c.timings[name].facts for c in report.comparisons if name in c.timings}
    accuracies = [facts['accuracy'] for facts in runs.values()]
    first = next(iter(runs.values()))
    row = {'network': name, 'parameters (M)': first['parameters'] / 1e6}
    row['multiply-adds (M)'] = first['multiply_adds'] / 1e6
    row |= {f'seed {seed}': facts['accuracy'] for seed, facts in runs.items()}
    if len(runs) > 1:
        row |= {'mean': statistics.mean(accuracies), 'deviation': statistics.stdev(accuracies)}
    row['mean at half'] = statistics.mean(facts['accuracy_at_half'] for facts in runs.values())
    row['loss at the end'] = statistics.mean(facts['loss'] for facts in runs.values())
    return row


def iterations(text: str) -> int:
    """A number of iterations that logs losses and times twice."""
    count = command_line.positive(text)
    if count < 2 * LOGGED_EVERY:
        raise argparse.ArgumentTypeError(f'expected at least {2 * LOGGED_EVERY}, got {count}')
    return count


def main(argv: Sequence[str] | None = None) -> Path:
    argv = sys.argv[1:] if argv is None else list(argv)
    parser = command_line.result_parser(__doc__)
    add = parser.add_argument
    add('--task', choices=TASKS, default='comparison', help='(default: %(default)s)')
    add('--variants', nargs='+', choices=VARIANTS, metavar='NAME', help=f"(default: the task's); {', '.join(VARIANTS)}")
    add('--seeds', nargs='+', type=int, metavar='N', help='(default: 0 1 2 in a comparison, 0 in the others)')
    add('--iterations', type=iterations, metavar='N', help="batches to train on (default: the task's)")
    add('--keep', type=Path, metavar='FOLDER', help="empty folder to keep each run's config and last checkpoint in")
    parser.set_defaults(device=torch.device('cpu'))
    args = parser.parse_args(argv)
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    given = {key: getattr(args, key) for key in ('variants', 'seeds', 'iterations')}
    task = replace(TASKS[args.task], **{key: value for key, value in given.items() if value is not None})
    if args.keep is not None:
        try:
            check_writable(args.keep, '--keep')
        except OSError as error:
            parser.error(str(error))
        if any(args.keep.iterdir()):
            parser.error(f'--keep: {args.keep} is not empty; name another folder')
    return command_line.run('learning', args, argv, comparisons(task, args.keep), tables, args.task)


if __name__ == '__main__':
    main()
