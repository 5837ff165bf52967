"""Options and checks that the training and the test tool share, for any task.

The runner, its hooks and its loops are mmengine's, and what a config says is done. What is added:
weights-only loading on every torch, and errors that say how to mend what is wrong before a model is
built.
"""

import argparse
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from mmengine.config import Config, DictAction
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from mmsparx.safe_loading import allow_mmengine_globals


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """Add config, work directory, overrides and launcher."""
    parser.add_argument('config', help='config file')
    parser.add_argument('--work-dir', help="folder of logs and checkpoints (default: work_dirs/<config's name>)")
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        metavar='KEY=VALUE',
        help='override settings of the config, as in optim_wrapper.optimizer.lr=5e-5 key="[a,b]"; lists without spaces',
    )
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none', help='job launcher')
    # torch.distributed.launch passes it, in either spelling; torchrun sets the variable instead.
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)


def load_config(args: argparse.Namespace) -> Config:
    """The config with the common arguments applied.

    Raises:
        FileNotFoundError: no such config.
    """
    if not Path(args.config).is_file():
        raise FileNotFoundError(f'no config file {args.config!r} in {Path.cwd()}')
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    cfg = Config.fromfile(args.config)
    cfg.launcher = args.launcher
    if args.cfg_options:
        cfg.merge_from_dict(args.cfg_options)
    if args.work_dir is not None:
        cfg.work_dir = args.work_dir
    elif cfg.get('work_dir') is None:
        cfg.work_dir = str(Path('work_dirs', Path(args.config).stem))
    return cfg


def check_data(cfg: Config, loaders: tuple[str, ...]) -> None:
    """Fail before a model is built where a dataset's folder or annotation file is not there.

    Args:
        cfg: the config.
        loaders: of `train_dataloader`, `val_dataloader` and `test_dataloader`, those that will run.

    Raises:
        FileNotFoundError: names the missing path and the setting that holds it.
    """
    for loader in loaders:
        for key, dataset in _datasets(cfg.get(loader), f'{loader}.dataset'):
            root = dataset.get('data_root') or ''
            prefixes = dataset.get('data_prefix') or {}
            parts = {'ann_file': dataset.get('ann_file'), **prefixes} if isinstance(prefixes, Mapping) else {}
            for part in filter(lambda part: isinstance(part, str) and part, parts.values()):
                path = os.path.join(root, part)
                if '://' not in path and not os.path.exists(path):
                    raise FileNotFoundError(
                        f'{key}: {path} is not there. Link the data into the working directory, as in '
                        f'"ln -s /where/it/is {root.rstrip("/") or path}", or set {key}.data_root with --cfg-options'
                    )


def _datasets(loader: Mapping | None, key: str) -> Iterator[tuple[str, Mapping]]:
    """The innermost dataset configs of a loader, with their keys; wrappers hold one or several."""
    pending = [(key, loader.get('dataset'))] if loader else []
    while pending:
        key, dataset = pending.pop()
        if not isinstance(dataset, Mapping):
            continue
        inner = dataset.get('dataset')
        several = dataset.get('datasets')
        if inner is None and several is None:
            yield key, dataset
        pending += [(f'{key}.dataset', inner)] if inner is not None else []
        pending += [(f'{key}.datasets.{i}', each) for i, each in enumerate(several or ())]


def build_runner(cfg: Config) -> Runner:
    """mmengine's runner of a config, with weights-only loading on for the life of the process."""
    # Since torch 2.6 this is the default; below, mmengine would unpickle whatever a file holds.
    os.environ['TORCH_FORCE_WEIGHTS_ONLY_LOAD'] = '1'
    allow_mmengine_globals()
    return RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
