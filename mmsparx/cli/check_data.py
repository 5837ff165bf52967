"""`mmsparx check-data`: annotation files in COCO's format, folders of classes, and label maps."""

import argparse
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from mmsparx.cli.arguments import FILES, at_least, completed
from mmsparx.cli.running import Command

if TYPE_CHECKING:
    from mmsparx.annotations.findings import Findings

DESCRIPTION = """\
Look for faults in annotations, without a run: files in COCO's format, folders with a folder of images for each class,
and folders of label maps. The exit status is 1 where there are errors: what crashes a run or corrupts its result.

    mmsparx check-data data/coco/annotations/instances_val2017.json
    mmsparx check-data data/imagenet/train data/imagenet/val
    mmsparx check-data data/ade/ADEChallengeData2016/annotations/training --label-maps 150 --reduce-zero-label
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of a check."""
    paths = parser.add_argument(
        'paths', nargs='+', type=Path, metavar='PATH', help='annotation file, or folder of folders or of label maps'
    )
    completed(paths, FILES)
    parser.add_argument(
        '--no-masks', action='store_true', help='masks are not used: they may be missing, and their faults are warnings'
    )
    parser.add_argument(
        '--label-maps', type=at_least(1), metavar='CLASSES', help='folders hold label maps of this number of classes'
    )
    parser.add_argument(
        '--reduce-zero-label', action='store_true', help='in label maps, 0 is ignored and the first class is 1'
    )


def run(args: argparse.Namespace) -> int:
    """Write what is found; returns 1 where there are errors or a path cannot be read, else 0."""
    status = 0
    for path in args.paths:
        try:
            findings = check(path, args)
        except OSError as error:
            sys.stderr.write(f'mmsparx: {re.sub(r"^.Errno [0-9]+. ", "", str(error))}\n')
            status = 1
            continue
        errors, warnings = (findings.text(is_error) for is_error in (True, False))
        for title, text in (('errors', errors), ('warnings', warnings)):
            if text:
                sys.stdout.write(f'{title}:\n{text}\n')
        if not errors and not warnings:
            sys.stdout.write(f'{path}: no fault\n')
        status = 1 if errors else status
    return status


def check(path: Path, args: argparse.Namespace) -> 'Findings':
    """The findings in a file or folder."""
    from mmsparx.annotations.coco import check_coco
    from mmsparx.annotations.folders import check_folders

    if not path.is_dir():
        return check_coco(path, False if args.no_masks else None).findings
    if args.label_maps is None:
        return check_folders(path).findings
    from mmsparx.annotations.label_maps import check_label_maps
    from mmsparx.cli.progress import shown

    return check_label_maps(path, args.label_maps, args.reduce_zero_label, lambda files: shown(files, 'label maps'))


COMMAND = Command(
    'check-data', "look for faults in annotations: COCO's format, folders of classes, label maps", add_arguments, run,
    DESCRIPTION,
)  # fmt: skip
