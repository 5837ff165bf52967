"""The run of `mmsparx test`, which evaluates a checkpoint as a config describes."""

import argparse

from mmengine.config import Config
from torch.distributed.elastic.multiprocessing.errors import record

from mmsparx.engine.command_line import build_runner, empty_data_explained, load_config
from mmsparx.engine.data_check import check_data
from mmsparx.engine.outputs import check_writable
from mmsparx.engine.predictions import draw_predictions, dump_predictions
from mmsparx.engine.processes import ending_process_group
from mmsparx.engine.tta import apply_tta
from mmsparx.engine.work_dir import full_disk_explained


def apply_test_options(cfg: Config, args: argparse.Namespace) -> None:
    """Write the test options into the config.

    Raises:
        ValueError: a name for --out that is no pickle's; a config without one of the libraries' visualization
            hooks, or without the protocol of --tta.
    """
    if args.tta is not None:
        apply_tta(cfg, args.tta)
    cfg.load_from = args.checkpoint
    if args.out is not None:
        dump_predictions(cfg, args.out)
    if args.show_dir is not None:
        draw_predictions(cfg, args.show_dir)


def run_test(args: argparse.Namespace) -> None:
    """Test as the arguments of the command say; a process group that is started ends with it."""
    with ending_process_group():
        _run(args)


@record  # of several processes, the one that fails is named with its error
def _run(args: argparse.Namespace) -> None:
    cfg = load_config(args)
    apply_test_options(cfg, args)
    check_writable(cfg.work_dir, '--work-dir')
    check_data(cfg, ('test_dataloader',), args.annotation_faults)
    with full_disk_explained(cfg.work_dir), empty_data_explained():
        build_runner(cfg).test()
