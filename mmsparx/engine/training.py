"""The run of `mmsparx train`, which trains what a config describes."""

import argparse

import torch
from mmengine.config import Config
from mmengine.logging import print_log
from torch.distributed.elastic.multiprocessing.errors import record

from mmsparx.engine.command_line import build_runner, empty_data_explained, load_config
from mmsparx.engine.data_check import check_data
from mmsparx.engine.pretrained import drop_pretrained
from mmsparx.engine.processes import ending_process_group
from mmsparx.engine.resume import check_resumed, resume_newest
from mmsparx.engine.run_hooks import warn_of_missing_hooks
from mmsparx.engine.work_dir import own_work_dir


def apply_training_options(cfg: Config, args: argparse.Namespace) -> None:
    """Write the training options into the config.

    Raises:
        RuntimeError: --amp without an accelerator.
        ValueError: --auto-scale-lr with a config that names no base batch size, or --may-differ without load_from.
    """
    if args.amp:
        if not torch.cuda.is_available():
            raise RuntimeError(
                '--amp: mmengine trains in mixed precision on accelerators only, and torch sees none. '
                'Train without --amp, or check torch.cuda.is_available()'
            )
        cfg.optim_wrapper.type = 'AmpOptimWrapper'
        cfg.optim_wrapper.loss_scale = 'dynamic'
    if args.auto_scale_lr:
        if 'base_batch_size' not in cfg.get('auto_scale_lr', {}):
            raise ValueError(
                '--auto-scale-lr: the config has no auto_scale_lr=dict(base_batch_size=...), the total batch that '
                'its learning rate is meant for'
            )
        cfg.auto_scale_lr.enable = True
    if args.no_pretrained:
        changed = drop_pretrained(cfg.model)
        said = f'left out {", ".join(changed)}' if changed else "the config's model names no pretrained weights"
        print_log(f'--no-pretrained: {said}', logger='current')
    if args.may_differ:
        let_differ(cfg, args.may_differ, args.resume is not None)
    if args.resume is not None:
        cfg.resume = True
        cfg.load_from = None if args.resume == 'auto' else args.resume


def let_differ(cfg: Config, patterns: list[str], resume: bool) -> None:
    """Add the patterns of --may-differ to what load_from need not match."""
    if resume or cfg.get('resume'):
        raise ValueError('--may-differ: on a resume everything has to match. Leave --may-differ out, or --resume')
    if not cfg.get('load_from'):
        raise ValueError(
            '--may-differ is for the weights that load_from names, and it names none: --cfg-options load_from=FILE. '
            "For a backbone's own pretrained weights, set may_differ=[...] in its init_cfg"
        )
    cfg.custom_hooks = [*(cfg.get('custom_hooks') or ()), dict(type='mmsparx.StrictLoadHook', may_differ=patterns)]


def log_initial_weights(cfg: Config) -> None:
    """Log that a backbone which usually starts from ImageNet weights does not, where the config says why."""
    backbone = cfg.model.get('backbone', {})
    reason = cfg.get('no_pretrained_weights')
    if reason and 'init_cfg' in backbone and backbone.init_cfg is None and not cfg.get('load_from'):
        key = 'model.backbone.init_cfg'
        print_log(
            f'the backbone starts from random values: {reason}. To start from your own: --cfg-options '
            f'{key}._delete_=True {key}.type=Pretrained {key}.checkpoint=FILE',
            logger='current',
        )


def run_training(args: argparse.Namespace) -> None:
    """Train as the arguments of the command say; a process group that is started ends with it."""
    with ending_process_group():
        _run(args)


@record  # of several processes, the one that fails is named with its error
def _run(args: argparse.Namespace) -> None:
    cfg = load_config(args)
    apply_training_options(cfg, args)
    check_data(cfg, ('train_dataloader', 'val_dataloader'), args.annotation_faults)
    with own_work_dir(cfg.work_dir), empty_data_explained():
        if cfg.get('resume'):
            resume_newest(cfg) if cfg.get('load_from') is None else check_resumed(cfg)
        runner = build_runner(cfg)
        warn_of_missing_hooks(cfg)
        log_initial_weights(cfg)
        runner.train()
