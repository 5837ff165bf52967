"""Evaluate a checkpoint as a config describes: detection, segmentation or classification."""

import argparse

from mmengine.config import Config
from torch.distributed.elastic.multiprocessing.errors import record

from mmsparx.engine.command_line import add_common_arguments, build_runner, empty_data_explained, load_config
from mmsparx.engine.data_check import add_data_arguments, check_data
from mmsparx.engine.outputs import check_writable
from mmsparx.engine.predictions import draw_predictions, dump_predictions
from mmsparx.engine.processes import ending_process_group
from mmsparx.engine.tta import apply_tta
from mmsparx.engine.work_dir import full_disk_explained


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    add_common_arguments(parser)
    add_data_arguments(parser)
    parser.add_argument('checkpoint', help='checkpoint file or address')
    parser.add_argument(
        '--out',
        metavar='FILE.pkl',
        help='write the predictions to a pickle file, label maps without the scores of each class',
    )
    parser.add_argument(
        '--show-dir',
        help='draw ground truth and predictions into a copy of each picture, in this folder; of detections that '
        'overlap, whatever their classes, the best alone. Metrics and --out have all predictions',
    )
    parser.add_argument(
        '--tta',
        nargs='?',
        const='published',
        metavar='PROTOCOL',
        help="average over sizes and flips, by a name in the config's tta_pipelines: published (without a name) or "
        'original',
    )
    return parser.parse_args()


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


@record  # of several processes, the one that fails is named with its error
def run(args: argparse.Namespace) -> None:
    cfg = load_config(args)
    apply_test_options(cfg, args)
    check_writable(cfg.work_dir, '--work-dir')
    check_data(cfg, ('test_dataloader',), args.annotation_faults)
    with full_disk_explained(cfg.work_dir), empty_data_explained():
        build_runner(cfg).test()


def main() -> None:
    args = parse_args()
    with ending_process_group():
        run(args)


if __name__ == '__main__':
    main()
