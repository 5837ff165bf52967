"""Results of a benchmark: raw samples and their environment as JSON; tables as Markdown."""

import contextlib
import datetime
import importlib.metadata
import json
import os
import platform
import re
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

import mmsparx
from mmsparx.analysis.timing import Timing
from mmsparx.ops import available_backends, native
from mmsparx.ops.selective_scan import backends

ROOT = Path(__file__).resolve().parents[1]
RESULTS = 'benchmarks/results'
# Flags of a processor that decide which kernels run.
TELLING_FLAGS = re.compile(r'sse4_2|avx\w*|amx\w*|fma|f16c|asimd\w*|sve\w*')
COMMIT = 'MMSPARX_COMMIT'
VARIABLES = ('OMP_NUM_THREADS', 'KMP_AFFINITY', 'GOMP_CPU_AFFINITY', 'LD_PRELOAD', backends.VARIABLE, native.VARIABLE)


@dataclass
class Comparison:
    """Contenders that were timed against each other on one case.

    Attributes:
        case: Description of the case, such as {'image': '224x224', 'batch': 1}.
        timings: Timings by contender.
        copy: Timing of a copy of a large tensor within a GPU's memory, which took turns with them; None without one.
    """

    case: dict[str, str | int]
    timings: dict[str, Timing] = field(default_factory=dict)
    copy: Timing | None = None

    @property
    def measured(self) -> dict[str, Timing]:
        """The contenders that ran."""
        return {name: timing for name, timing in self.timings.items() if timing.skipped is None}


@dataclass
class Report:
    """One run of one benchmark.

    Attributes:
        benchmark: Name of the benchmark.
        command: Command that was run, without its output folder.
        settings: Options of all comparisons.
        environment: Environment, see `environment`.
        comparisons: Comparisons in order of time.
    """

    benchmark: str
    command: str
    settings: dict
    environment: dict
    comparisons: list[Comparison] = field(default_factory=list)

    def save(self, path: Path) -> None:
        """Write JSON; a list of numbers takes one line."""
        text = json.dumps(asdict(self), indent=1)
        text = re.sub(r'\[[^][{}"]*\]', lambda match: re.sub(r'\s+', ' ', match.group()), text)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + '\n')

    @classmethod
    def load(cls, path: Path) -> 'Report':
        """Read a file written by `save`.

        Raises:
            ValueError: another file.
        """
        try:
            content = json.loads(path.read_text())
            comparisons = [
                Comparison(
                    entry['case'],
                    {name: Timing(**timing) for name, timing in entry['timings'].items()},
                    Timing(**entry['copy']) if entry.get('copy') else None,
                )
                for entry in content.pop('comparisons')
            ]
            return cls(**content, comparisons=comparisons)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f'{path}: expected the JSON of a benchmark of this folder, but: {error!r}') from error


def markdown(rows: Sequence[dict[str, object]]) -> str:
    """A table with a row per dict and a column per key, numbers to three digits; '' without rows."""
    if not rows:
        return ''
    columns = list(dict.fromkeys(key for row in rows for key in row))
    cells = [columns, *([_cell(row.get(column)) for column in columns] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    numeric = [all(not isinstance(row.get(column), str) for row in rows) for column in columns]

    def line(values: Iterable[str]) -> str:
        padded = (v.rjust(w) if right else v.ljust(w) for v, w, right in zip(values, widths, numeric, strict=True))
        return f'| {" | ".join(padded)} |'

    rule = ('-' * (w - 1) + (':' if right else '-') for w, right in zip(widths, numeric, strict=True))
    return '\n'.join([line(columns), f'| {" | ".join(rule)} |', *map(line, cells[1:])])


def _cell(value: object) -> str:
    if value is None:
        return ''
    return short(value) if isinstance(value, float) else str(value)


def short(value: float) -> str:
    """A number to three digits, without an exponent from 0.001 on."""
    if value and abs(value) < 1e-3:
        return f'{value:.0e}'
    digits = f'{value:.3g}'
    return f'{value:.0f}' if 'e' in digits else digits


def environment(device: torch.device) -> dict:
    """Hardware, versions and commit, without anything that names this machine, its user or its folders."""
    facts = {
        'date': datetime.datetime.now(datetime.timezone.utc).isoformat(timespec='minutes'),
        'hardware': {'cpu': _cpu(), **({'gpu': _gpu(device)} if device.type == 'cuda' else {})},
        # Load of the last minute, before the first measurement: the machine should be idle.
        'load_average': round(os.getloadavg()[0], 2),
        'os': f'{platform.system()} {platform.machine()}, {" ".join(platform.libc_ver())}'.rstrip(', '),
        'python': platform.python_version(),
        'torch': torch.__version__,
        'torch_cpu_capability': torch.backends.cpu.get_cpu_capability(),
        **{name: _version(name) for name in ('timm', 'numpy', 'triton', 'mamba_ssm')},
        'mmsparx': mmsparx.__version__,
        'git': _git(),
        'scan_backends': available_backends(),
        'scan_build': native.build_info(),
        'variables': {name: os.environ[name] for name in VARIABLES if name in os.environ},
    }
    return _without_folders(facts)


def hardware_name(facts: dict) -> str:
    """The measured processor of an `environment`, in the form of a folder's name: 'nvidia-a100'."""
    hardware = facts['hardware']
    name = (
        hardware['gpu']['model']
        if 'gpu' in hardware
        else f'{hardware["cpu"]["model"]} {hardware["cpu"]["cores"]} cores'
    )
    return re.sub(r'[^a-z0-9]+', '-', re.sub(r'\((R|TM)\)|CPU|@.*?GHz', ' ', name).lower()).strip('-')


def _cpu() -> dict:
    info = {}
    with contextlib.suppress(OSError):  # Linux has it
        for line in Path('/proc/cpuinfo').read_text().splitlines():
            key, _, value = line.partition(':')
            info.setdefault(key.strip(), value.strip())
    flags = info.get('flags', info.get('Features', '')).split()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
    caches = {}
    for index in sorted(Path('/sys/devices/system/cpu/cpu0/cache').glob('index*')):
        with contextlib.suppress(OSError):
            level, kind, size = ((index / name).read_text().strip() for name in ('level', 'type', 'size'))
            caches[f'L{level} {kind.lower()}'] = size
    return {
        'model': info.get('model name') or platform.processor() or platform.machine(),
        'cores': cores,
        'flags': ' '.join(sorted(flag for flag in flags if TELLING_FLAGS.fullmatch(flag))),
        'caches': caches,
        'memory_gib': round(os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30),
    }


def _gpu(device: torch.device) -> dict:
    properties = torch.cuda.get_device_properties(device)
    return {
        'model': properties.name,
        'memory_gib': round(properties.total_memory / 2**30),
        'multiprocessors': properties.multi_processor_count,
        'capability': f'{properties.major}.{properties.minor}',
        'driver': _output('nvidia-smi', '--query-gpu=driver_version', '--format=csv,noheader'),
        'cuda': torch.version.cuda,
        'cudnn': torch.backends.cudnn.version(),
    }


def _git() -> dict | None:
    """Commit, and whether the working tree differs from it, results aside; None outside a checkout.

    A copy of a checkout, on a machine without git, has its commit from the environment variable `COMMIT`.
    """
    commit = _output('git', 'rev-parse', 'HEAD')
    if commit is None:
        given = os.environ.get(COMMIT)
        return {'commit': given, 'dirty': False} if given else None
    changes = _output('git', 'status', '--porcelain', '--', '.', f':!{RESULTS}')
    return {'commit': commit, 'dirty': bool(changes)}


def _output(*command: str) -> str | None:
    """The first line of a command's output; None if it fails."""
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip().partition('\n')[0] if done.returncode == 0 else None


def _version(name: str) -> str | None:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(name)
    return None


def _without_folders(value):
    """Cut every absolute path to its last part, since results are published."""
    if isinstance(value, dict):
        return {key: _without_folders(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_folders(entry) for entry in value]
    return re.sub(r'(?:(?<![\w.])|(?<=-[IL]))(?:/[^\s/:;,\'"=]+)+/', '', value) if isinstance(value, str) else value
