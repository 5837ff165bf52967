"""`python -m benchmarks.gpu first`: tests and measures the kernels on a GPU within six minutes.

It uses existing kernels if they load and belong to these sources, and builds them otherwise. It needs torch,
mmengine, timm and pytest; to build also nvcc, to sanitize compute-sanitizer; no mmcv and no network. The exit status is
0 only if every stage has passed.
"""

import argparse
import os
import resource
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks import command_line
from benchmarks.gpu.runner import Run
from benchmarks.gpu.stages import CALLS, SECONDS, stages_of
from benchmarks.report import ROOT


def main(argv: Sequence[str] | None = None) -> int:
    known = stages_of('cpu')
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    add = parser.add_argument
    names = f'first, second, or some of {", ".join(known)}'
    add('stages', nargs='*', default=['first'], metavar='STAGE', help=f'{names} (default: first)')
    add('--device', type=command_line.device_of, default='cuda', help='cuda or cuda:N; cpu rehearses (default: cuda)')
    add('--limit', type=float, default=SECONDS, help='seconds for all stages together (default: %(default)g)')
    add('--out', type=Path, default=Path('work_dirs/gpu'), help='folder of the archive (default: %(default)s)')
    args = parser.parse_args(argv)
    chosen = list(dict.fromkeys(name for stage in args.stages for name in CALLS.get(stage, (stage,))))
    for name in chosen:
        if name not in known:
            parser.error(f'expected {names}, got {name!r}')
    stages = stages_of(str(args.device))
    if args.device.type == 'cpu':
        title = f'Rehearsal on a CPU, of small sizes: no GPU was used. torch {torch.__version__}'
    else:
        title = f'{torch.cuda.get_device_name(args.device)}, torch {torch.__version__}'
    # This checkout is tested and measured, whether it is installed or not.
    os.environ['PYTHONPATH'] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get('PYTHONPATH')]))
    os.environ['PYTHONUNBUFFERED'] = '1'
    os.environ.setdefault('OMP_NUM_THREADS', '1')
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))  # of what is ended
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # the results so far are packed
    run = Run(args.out / f'{"_".join(args.stages)}.zip', ROOT, args.limit, title)
    try:
        passed = run([stages[name] for name in chosen])
    finally:
        print(f'\n{run.summary}\nlogs and results: {run.archive}', flush=True)
    return int(not passed)


if __name__ == '__main__':
    sys.exit(main())
