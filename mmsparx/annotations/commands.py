"""`python -m mmsparx check-annotations`: annotation files in COCO's format, and folders of classes."""

import argparse
import sys
from pathlib import Path


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add `check-annotations` to the commands of a parser."""
    text = "look for faults in annotations: files in COCO's format, and folders with a folder of images for each class"
    parser = commands.add_parser(
        'check-annotations',
        help=text,
        allow_abbrev=False,
        description=f'{text}. The exit status is 1 where there are errors: what crashes a run or corrupts its result.',
    )
    parser.add_argument('paths', nargs='+', type=Path, metavar='PATH', help='annotation file, or folder of folders')
    parser.add_argument(
        '--no-masks', action='store_true', help='masks are not used: none is missed, and faults in them are warnings'
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Write what is found; returns 1 where there are errors or a path cannot be read, else 0."""
    # Here, since the other commands have to start where numpy is missing or broken.
    from mmsparx.annotations.coco import check_coco
    from mmsparx.annotations.folders import check_folders

    status, masks = 0, False if args.no_masks else None
    for path in args.paths:
        try:
            findings = check_folders(path).findings if path.is_dir() else check_coco(path, masks).findings
        except OSError as error:
            sys.stderr.write(f'mmsparx: {error}\n')
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
