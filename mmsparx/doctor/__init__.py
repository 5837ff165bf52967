"""`python -m mmsparx doctor`: what is installed, whether it works together, and how to fix what does not.

It exits with 1 where there is an error, else with 0. `--json` writes one object:

    status      the worst of all: "ok", "note", "warning" or "error"
    python      path of the interpreter
    versions    {name: version, or null where it is not installed}; `cuda` is torch's
    gpus        of those that torch sees: [{name, capability, memory_gib}]
    backends    of the selective scan, best first: [{name, device, instruction_set, in_use, status, found, fix}];
                status is "ok", "error", or "unavailable" with the reason in `found`; device and
                instruction_set may be null; in_use says what backend='auto' runs on that device
    checks      [{name, status, found, fix}]; status as above, fix is a command or says what to do

Packages are imported and scans run in processes of their own (`isolated`), since a broken one may end its process.
"""

import argparse
import json
import sys

from mmsparx.doctor.environment import look
from mmsparx.doctor.report import as_text, make_report


def add_command(commands: argparse._SubParsersAction) -> None:
    """Add `doctor` to the commands of a parser."""
    text = 'say what is installed, what does not work, and how to fix it'
    parser = commands.add_parser('doctor', help=text, description=f'{text[0].upper()}{text[1:]}.', allow_abbrev=False)
    parser.add_argument('--json', action='store_true', help='write one JSON object')
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Write the report; returns 1 where it has an error, else 0."""
    report = make_report(look())
    sys.stdout.write((json.dumps(report, indent=2) if args.json else as_text(report)) + '\n')
    return int(report['status'] == 'error')
