"""The stages of a quarter of an hour on a GPU, and of its rehearsal on a CPU, in order of their value.

There are two calls of six minutes each: `first` and `second`. Both begin with `load`, since the second may run where
nothing is built. Most stages take less than their limits.
"""

import importlib.util

from benchmarks.gpu.runner import JUNIT, Stage

CALLS = {
    'first': ('load', 'memcheck', 'tests', 'maps', 'network', 'profile', 'norm'),
    'second': ('load', 'sanitizers', 'operators', 'detection', 'precision', 'compiled'),
}
SECONDS = 360.0  # of a call
SANITIZERS = ('memcheck', 'racecheck', 'initcheck', 'synccheck')
# torch's own allocator would hide a read beyond a tensor's end.
UNCACHED = {'PYTORCH_NO_CUDA_MEMORY_CACHING': '1'}
MODULE = '{python} -X faulthandler -m '  # a process that is ended writes where it stood
TESTS = 'tests/test_ops tests/test_layers tests/test_models'
# Samples are few: time is short, and a GPU's medians differ little. A rehearsal's are fewer.
SOON, SMALL = '--seconds 0.5 --samples 9', '--seconds 0.01 --samples 3'


def stages_of(device: str) -> dict[str, Stage]:
    """All stages by name, for a GPU ('cuda', 'cuda:1') or, on small sizes, for a CPU ('cpu')."""
    stages = _on_gpu(device) if device != 'cpu' else _on_cpu()
    return {stage.name: stage for stage in stages}


def _benchmark(device: str, module: str, options: str) -> str:
    return f'{MODULE}benchmarks.{module} --device {device} --out {{folder}} --name {{name}} {options}'


def _tests(mark: str) -> dict[str, str]:
    parallel = '-n 8 ' if importlib.util.find_spec('xdist') else ''
    options = f'-v -m {mark} -p no:cacheprovider {parallel}--junitxml {{folder}}/{JUNIT}'
    return {'pytest': f'{MODULE}pytest {options} {TESTS}'}


def _on_gpu(device: str) -> list[Stage]:
    def benchmark(module: str, options: str) -> str:
        return _benchmark(device, module, options)

    def sanitized(tool: str, options: str) -> str:
        scans = f'{MODULE}benchmarks.sanitize --device {device} {options}'
        return f'compute-sanitizer --tool {tool} --error-exitcode 1 {scans}'

    few = '--lengths 49 3137 --states 1 --maps 7x7 65x78 --types float32 bfloat16'
    more = '--wide --lengths 1 49 3137 --states 1 5 --maps 7x7 14x14 65x78'
    # mamba-ssm's kernel, where it is installed.
    theirs = bool(importlib.util.find_spec('selective_scan_cuda'))
    scans = f'--networks tiny --passes forward backward {SOON} --contenders native triton' + ' mamba-ssm' * theirs
    maps = f'{scans.replace(" mamba-ssm", "")} native-plain' + ' mamba-ssm-plain' * theirs
    networks = '--sizes tiny --families SparX-Mamba Swin ConvNeXt --seconds 1 --samples 9 --scan-backend native'
    return [
        Stage('load', 150, {'load': f'{MODULE}benchmarks.gpu.load --device {device}'}),
        Stage('memcheck', 50, {'memcheck': sanitized('memcheck', few)}, environment=UNCACHED),
        Stage('tests', 90, _tests('gpu')),
        Stage(
            'maps',
            50,
            {'maps_bfloat16': benchmark('cross_selective_scan', f'--images 224 --batches 128 --dtype bfloat16 {maps}')},
        ),
        Stage(
            'network',
            60,
            {
                'network_bf16': benchmark(
                    'network', f'--batches 128 --train-batches 128 --precision bf16 {networks} triton'
                )
            },
        ),
        Stage('profile', 40, {'network_profile': benchmark('network_profile', '')}),
        Stage('norm', 25, {'map_norm': benchmark('map_norm', SOON)}),
        Stage(
            'sanitizers', 110, {tool: sanitized(tool, more) for tool in SANITIZERS}, together=True, environment=UNCACHED
        ),
        Stage(
            'operators',
            70,
            {
                f'operators_{dtype}': benchmark(
                    'selective_scan', f'--images 224 --batches 1 128 --dtype {dtype} {scans}'
                )
                for dtype in ('bfloat16', 'float32')
            },
        ),
        Stage(
            'detection',
            50,
            {
                f'maps_{dtype}_detection': benchmark(
                    'cross_selective_scan', f'--images 800x1344 --batches 2 --dtype {dtype} {maps}'
                )
                for dtype in ('bfloat16', 'float32')
            },
        ),
        Stage(
            'precision',
            80,
            {
                'network_tf32': benchmark(
                    'network', f'--batches 1 128 --train-batches 128 --precision tf32 {networks}'
                ),
                'network_bf16_single': benchmark(
                    'network', f'--modes inference --batches 1 --precision bf16 {networks}'
                ),
            },
        ),
        Stage(
            'compiled',
            150,
            {
                'network_compiled_bf16': benchmark(
                    'network', f'--modes inference --batches 128 --precision bf16 --compile {networks}'
                )
            },
        ),
    ]


def _on_cpu() -> list[Stage]:
    """The same stages on sizes that take seconds, to try every step without a GPU."""

    def benchmark(module: str, options: str) -> str:
        return _benchmark('cpu', module, options)

    alone = 'scans alone: compute-sanitizer needs a GPU'
    scans = {'scans': f'{MODULE}benchmarks.sanitize --backend reference --lengths 1 49 --states 1 --maps 7x7'}
    tiny = f'--networks tiny --images 32 --batches 1 --stages 3 4 --passes forward backward {SMALL}'
    networks = f'--sizes tiny --images 64 --batches 2 --train-batches 2 {SMALL}'
    pair = f'{networks} --families SparX-Mamba ConvNeXt'
    profiled = '--image 64 --batch 2 --detection-image 64x96 --detection-batch 1 --precision fp32'
    return [
        Stage('load', 120, {'load': f'{MODULE}benchmarks.gpu.load --device cpu'}),
        Stage('memcheck', 60, scans, remark=alone),
        Stage('tests', 400, _tests('emulated'), remark='the emulated kernels'),
        Stage('maps', 60, {'maps_float32': benchmark('cross_selective_scan', tiny)}),
        Stage('network', 90, {'network_fp32': benchmark('network', pair)}),
        Stage('profile', 60, {'network_profile': benchmark('network_profile', profiled)}),
        Stage('norm', 90, {'map_norm': benchmark('map_norm', f'--shapes 2x8x20x32 {SMALL}')}),
        Stage('sanitizers', 60, scans, together=True, remark=alone),
        Stage(
            'operators',
            60,
            {'operators_float32': benchmark('selective_scan', f'{tiny} --contenders reference unbind')},
        ),
        Stage('detection', 120, {'maps_float32_detection': benchmark('cross_selective_scan', tiny)}),
        Stage('precision', 90, {'network_bf16': benchmark('network', f'{pair} --precision bf16 --modes inference')}),
        Stage(
            'compiled',
            180,
            {
                'network_compiled_fp32': benchmark(
                    'network', f'{networks} --families ConvNeXt --modes inference --compile'
                )
            },
        ),
    ]
