"""Train what a config describes: detection, segmentation or classification."""

import argparse

import torch
from mmengine.config import Config
from mmengine.logging import print_log
from torch.distributed.elastic.multiprocessing.errors import record

from mmsparx.engine.command_line import add_common_arguments, build_runner, empty_data_explained, load_config
from mmsparx.engine.data_check import add_data_arguments, check_data
from mmsparx.engine.pretrained import drop_pretrained
from mmsparx.engine.processes import ending_process_group
from mmsparx.engine.resume import check_resumed, resume_newest
from mmsparx.engine.run_hooks import warn_of_missing_hooks
from mmsparx.engine.work_dir import own_work_dir


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    add_common_arguments(parser)
    add_data_arguments(parser)
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='CHECKPOINT',
        help='continue from a checkpoint; without a name, from the newest whole one in the work directory',
    )
    parser.add_argument('--amp', action='store_true', help='train in automatic mixed precision (needs an accelerator)')
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help="scale the learning rate by the total batch over the config's auto_scale_lr.base_batch_size",
    )
    parser.add_argument(
        '--no-pretrained',
        action='store_true',
        help="start from scratch instead of the pretrained weights that the config's model names, wherever it does",
    )
    parser.add_argument(
        '--may-differ',
        nargs='+',
        metavar='PATTERN',
        help="names of the model's weights, with *, that need not be in load_from as the model has them, as in "
        "'head.fc.*' for other classes",
    )
    return parser.parse_args()


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


@record  # of several processes, the one that fails is named with its error
def run(args: argparse.Namespace) -> None:
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


def main() -> None:
    args = parse_args()
    with ending_process_group():
        run(args)


if __name__ == '__main__':
    main()
