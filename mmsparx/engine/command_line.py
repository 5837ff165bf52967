"""Parts shared by training and testing of any task: the config of a run, its checks, and its runner.

The runner, its hooks and its loops are mmengine's, and what a config says is done. What is added:
weights-only loading on every torch, weights that match or an error, checkpoints that are whole at every
moment, several processes without a GPU, and errors that say how to fix what is wrong, where possible
before a model is built.
"""

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.logging import print_log
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from mmsparx.engine.common import is_of_kind, named_dicts, type_name
from mmsparx.engine.hooks.strict_load import STRICT_LOAD
from mmsparx.engine.hooks.unused_outputs import UNUSED_OUTPUTS
from mmsparx.engine.layer_decay import check_layer_decay
from mmsparx.engine.options import apply_options, check_arguments
from mmsparx.engine.processes import prepare_processes
from mmsparx.engine.run_hooks import merge_hooks
from mmsparx.ops.selective_scan.backends import explain
from mmsparx.version import __version__
from mmsparx.weights import secure_mmengine
from mmsparx.zoo import resolve_config

# Scopes of configs, which are the packages that have the types.
LIBRARIES = ('mmdet', 'mmseg', 'mmpretrain')


def read_config(path: Path) -> Config:
    """A config file, whose library is imported.

    Raises:
        ValueError: It, or one of its bases, is not Python.
        ModuleNotFoundError: Its library is not installed, of which a registry would say that it lacks a type.
    """
    try:
        cfg = Config.fromfile(path)
    except SyntaxError as error:
        line = f' in line {error.lineno}, {error.text.strip()!r}' if error.text else ''
        raise ValueError(f'{path}, or a base of it, is not Python: {error.msg}{line}. Correct the config') from error
    if cfg.get('default_scope') in LIBRARIES:
        import_module(cfg.default_scope)
    return cfg


def load_config(args: argparse.Namespace) -> Config:
    """The config with the common arguments applied; a file, or a shipped config by its name.

    Raises:
        ValueError: neither a file nor a shipped config of that name, or an option of an unknown key; the nearest are
            listed.
    """
    path = resolve_config(args.config)
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    cfg = read_config(path)
    cfg.launcher = args.launcher
    apply_options(cfg, args.cfg_options, args.allow_new_keys)
    if args.work_dir is not None:
        cfg.work_dir = args.work_dir
    elif cfg.get('work_dir') is None:
        cfg.work_dir = str(Path('work_dirs', path.stem))
    return cfg


def harden(cfg: Config) -> None:
    """Give a config's run what keeps its data and weights safe, whichever library the config is of.

    `SafeCheckpointHook` takes the place of mmengine's, and this package's `LoadImageFromFile` that of
    mmcv's in training and validation; `StrictLoadHook` and `UnusedOutputsHook` are added, and other hooks of this
    package that are there twice become one. What is of another kind is left alone.
    The first process logs a line for each change.
    """
    changes = []
    by_default = dict(type='CheckpointHook', interval=1)  # mmengine's own default
    checkpoint = cfg.get('default_hooks', {}).get('checkpoint', by_default)
    if is_of_kind(checkpoint, r'(mmengine\.hooks\.(checkpoint_hook\.)?)?CheckpointHook'):
        changes.append(f'default_hooks.checkpoint: {type_name(checkpoint)} -> mmsparx.SafeCheckpointHook')
        safe = {**checkpoint, 'type': 'mmsparx.SafeCheckpointHook'}
        cfg.default_hooks = {**cfg.get('default_hooks', {}), 'checkpoint': safe}
    changes += merge_hooks(cfg)
    for kind, name in ((STRICT_LOAD, 'mmsparx.StrictLoadHook'), (UNUSED_OUTPUTS, 'mmsparx.UnusedOutputsHook')):
        custom = list(cfg.get('custom_hooks') or ())
        if not any(is_of_kind(hook, kind) for hook in custom):
            changes.append(f'custom_hooks: {name} added')
            cfg.custom_hooks = [*custom, dict(type=name)]
    # test_dataloader keeps its own: inferencers, given the config that a run leaves, look there for mmcv's.
    for loader in ('train_dataloader', 'val_dataloader'):
        for key, part in named_dicts(cfg.get(loader), loader):
            if is_of_kind(part, r'(mmcv\.transforms\.(loading\.)?)?LoadImageFromFile'):
                changes.append(f'{key}: {type_name(part)} -> mmsparx.LoadImageFromFile')
                part['type'] = 'mmsparx.LoadImageFromFile'
    if os.environ.get('RANK', '0') == '0':  # the processes may not have met yet
        for change in changes:
            print_log(f'changed in the config: {change}', logger='current')


@contextmanager
def empty_data_explained() -> Iterator[None]:
    """Explain the errors that mmengine raises for a dataset without images."""
    try:
        yield
    except ValueError as error:
        if 'need at least one array to concatenate' not in str(error):
            raise
        raise ValueError(
            'a dataset holds no image. Either its annotation file names none, or its filter leaves none: a training '
            'set is without images that have no objects of the classes, unless filter_cfg has filter_empty_gt=False'
        ) from error


def build_runner(cfg: Config) -> Runner:
    """mmengine's runner of a config, `harden`ed, with weights-only loading on for the life of the process."""
    prepare_processes(cfg)
    harden(cfg)
    check_arguments(cfg)
    check_layer_decay(cfg)
    # mmengine's own loading is secured; this is for what other libraries load.
    os.environ['TORCH_FORCE_WEIGHTS_ONLY_LOAD'] = '1'
    secure_mmengine()  # again: a config's imports may have given mmengine further loaders
    runner = RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
    log_versions(runner)
    return runner


def log_versions(runner: Runner) -> None:
    """Log which mmsparx runs, and which backend of its scan on the runner's device, and why."""
    try:
        chosen = explain(torch.empty(1, 1, 1, device=get_device()))  # FlexibleRunner has no model yet
    except (ValueError, RuntimeError) as error:  # ends the run at its first scan, and a model may have none
        chosen = f'none: {error}'
    runner.logger.info(f'mmsparx {__version__}; backend of the selective scan: {chosen}')
