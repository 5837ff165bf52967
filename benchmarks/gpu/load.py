"""The first stage: the compiled kernels exist and belong to these sources, and a scan by each backend is correct.

It builds missing kernels for the visible GPU. Then it measures the two ceilings of the GPU: a copy within its
memory, and a product of large bfloat16 matrices.
"""

import argparse
import os
import runpy
import subprocess
import sys
from collections.abc import Sequence

import torch

from benchmarks import command_line, sanitize
from benchmarks.report import ROOT
from mmsparx.analysis.timing import Copying, clock_of
from mmsparx.ops import native, triton_runtime

BUILT = '--built'  # given to the process that looks at what was built
MATRIX = 8192


def unusable(device: torch.device) -> str | None:
    """Reason why the compiled kernels cannot be used on a device, or None."""
    reason = native.missing() or native.refusal(torch.empty(1, 1, 1, device=device))
    if reason is not None:
        return reason
    digest = runpy.run_path(str(ROOT / 'setup.py'))['get_digest'](ROOT)
    if native.build_info().get('sources') != digest:
        return 'they were compiled from other sources than those of this checkout'
    return None


def build(device: torch.device) -> int:
    """Compile the kernels in place by setup.py, and return the exit status. pip would look for build requirements."""
    settings = {'MMSPARX_WITH_OPS': '1'}
    if device.type == 'cuda':
        capability = '{}.{}'.format(*torch.cuda.get_device_capability(device))
        settings |= {'FORCE_CUDA': '1', 'TORCH_CUDA_ARCH_LIST': capability}
    print(f'building: {settings}', flush=True)
    command = [sys.executable, 'setup.py', 'build_ext', '--inplace']
    return subprocess.run(command, cwd=ROOT, env=os.environ | settings, check=False).returncode


def ceilings(device: torch.device) -> str:
    """Speed of a copy and of a matrix product, on random numbers, since a product of zeros is faster."""
    copying = Copying(device)
    copying.source.random_()
    a, b = (torch.randn(MATRIX, MATRIX, dtype=torch.bfloat16, device=device) for _ in range(2))
    clock = clock_of(device)

    def best_of(run) -> float:
        run()
        times = []
        for _ in range(10):
            start = clock()
            run()
            times.append(clock() - start)
        return min(times)

    copy, product = best_of(copying), best_of(lambda: a @ b)
    return (
        f'a copy moves {copying.bytes / copy / 1e9:.0f} GB/s, read and written together; bfloat16 products of '
        f'{MATRIX} x {MATRIX} matrices run at {2 * MATRIX**3 / product / 1e12:.0f} TFLOP/s'
    )


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument('--device', type=command_line.device_of, default='cuda', help='(default: cuda)')
    parser.add_argument(BUILT, action='store_true', help='do not build')
    args = parser.parse_args(argv)
    print(f'torch {torch.__version__}, Python {sys.version.split()[0]}, {args.device}', flush=True)
    reason = unusable(args.device)
    if reason is not None and not args.built:
        print(f'the compiled kernels cannot be used: {reason}', flush=True)
        if build(args.device):
            print('the build has failed', file=sys.stderr)
            return 1
        # A library is loaded when its module is imported, so by a new process.
        again = [sys.executable, '-X', 'faulthandler', '-m', 'benchmarks.gpu.load', '--device', str(args.device), BUILT]
        return subprocess.run(again, cwd=ROOT, check=False).returncode
    print(f'built: {native.build_info()}', flush=True)
    if args.device.type == 'cuda':
        print(ceilings(args.device), flush=True)
    wrong = 0
    if reason is None:
        wrong += _right('native', args.device)
    if args.device.type in triton_runtime.DEVICES:
        wrong += _right('triton', args.device)
    if reason is not None:  # last, where it is read
        print(f'native: {reason}', file=sys.stderr)
    return int(wrong > 0 or reason is not None)


def _right(backend: str, device: torch.device) -> int:
    sizes = ['--lengths', '49', '196', '--states', '1', '--maps', '14x14', '--types', 'float32', 'bfloat16']
    print(f'{backend}:', flush=True)
    try:
        return sanitize.main(['--backend', backend, '--device', str(device), *sizes])
    except Exception as error:  # the other backend is still to be tried
        print(f'{backend}: {type(error).__name__}: {error}', file=sys.stderr, flush=True)
        return 1


if __name__ == '__main__':
    sys.exit(main())
