"""nvcc's results for the CUDA kernels: registers, spilled bytes, warps that fit, instructions per element.

Compiles them without torch and runs nothing, so it needs nvcc and no GPU. Instructions are counted in the machine
code of the loop over whole tiles, for one state and reads of full width: what a warp issues for a tile, over the
positions of the tile that a lane holds. Where a lane has a row of its own (lane ...), a tile is a stretch of its row,
in a backward a chunk, with what brings it to shared memory and back; of small maps, it is 8 positions, and what reads
and sums the maps, some 8 instructions per element, is not counted.
"""

import argparse
import importlib.util
import json
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

SOURCES = Path(__file__).parents[1] / 'csrc' / 'selective_scan' / 'cuda'
TYPES = ('float', 'bfloat16', 'half', 'double')
WARPS_OF_A_MULTIPROCESSOR = {'75': 32, '86': 48, '87': 48, '88': 48, '89': 48, '110': 48, '120': 48, '121': 48}
REGISTERS_OF_A_MULTIPROCESSOR = 65536
WARPS_OF_A_BLOCK = {
    'forward': 4,
    'lane_forward': 2,
    'backward': 1,
    'lane_backward': 1,
    'cross_forward': 4,
    'small_cross_forward': 2,
    'lane_cross_forward': 2,
    'lane_small_cross_forward': 4,
    'cross_backward': 1,
    'lane_cross_backward': 1,
}
POSITIONS_OF_A_LANE = 8  # of a whole tile
SCANS = tuple(WARPS_OF_A_BLOCK)
SCANS_BY_STRETCHES = ('lane_forward', 'lane_cross_forward')
STRETCHES = {'float': 32}  # positions, 64 of other types: 128 bytes
SCANS_BY_CHUNKS = ('lane_backward', 'lane_cross_backward')
CHUNK = 64  # positions
Code = Sequence[tuple[int, str]]  # addresses and instructions
# The name as the compiler mangles it; kernels with a lane per row are for one state.
NAME = r'\d((?:lane_)?(?:small_)?(?:cross_)?(?:forward|backward))_kernelI(?:[fd]|\w*?(?:BFloat16|Half)E)(?:Li(\d+)E)?'


@dataclass
class Kernel:
    """One compiled kernel.

    Attributes:
        arch: Architecture, as 90 for sm_90.
        type: Type of inputs and outputs.
        scan: Name of the scan, one of `SCANS`.
        states: Number of states N, or 0 for any.
        registers: Number of registers of a thread.
        spilled: Bytes of a thread that are spilled to memory.
        warps: Number of warps that a multiprocessor holds at once, as far as registers go, of how many there can be at
            all. Shared memory may allow fewer.
        instructions: Number of instructions per element; None where they were not counted.
    """

    arch: str
    type: str
    scan: str
    states: int
    registers: int
    spilled: int
    warps: str
    instructions: float | None = None


def missing() -> str | None:
    """Reason why nothing can be compiled here, or None."""
    if shutil.which('nvcc') is None:
        return 'no nvcc on PATH'
    return None if SOURCES.is_dir() else 'needs the repository'


def nvcc_version() -> str:
    said = subprocess.run(['nvcc', '--version'], stdout=subprocess.PIPE, text=True, check=True).stdout
    return (re.findall(r'release \S+ V(\S+)', said) or ['unknown'])[0]


def find_disassembler() -> str | None:
    """cuobjdump of a CUDA toolkit, or Triton's."""
    if found := shutil.which('cuobjdump'):
        return found
    if (spec := importlib.util.find_spec('triton')) is None:
        return None
    path = Path(spec.origin).parent / 'backends' / 'nvidia' / 'bin' / 'cuobjdump'
    return str(path) if path.is_file() else None


def compile_kernels(kind: str, arch: str, target: Path, *options: str) -> str:
    """Compile the kernels of a type into a cubin; returns the assembler's report.

    Raises:
        RuntimeError: nvcc fails; the message has its output.
    """
    # torch's options, as far as they matter.
    flags = ['-std=c++17', '-O3', '--expt-relaxed-constexpr', f'-arch=sm_{arch}', '-Xptxas=-v', *options]
    command = ['nvcc', *flags, '-cubin', '-o', str(target), str(SOURCES / f'kernels_{kind}.cu')]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise RuntimeError(f'{shlex.join(command)} failed:\n{done.stdout}')
    return done.stdout


def read_report(text: str, kind: str, arch: str) -> Iterator[Kernel]:
    """The scans' kernels in the assembler's report."""
    entry = re.compile(
        rf"entry function '\S*?{NAME}.*?(\d+) bytes spill stores.*?Used (\d+) registers",
        re.S,
    )
    for scan, states, spilled, registers in entry.findall(text):
        most = WARPS_OF_A_MULTIPROCESSOR.get(arch, 64)
        block = WARPS_OF_A_BLOCK[scan]
        of_a_block = -(-int(registers) // 8) * 8 * 32 * block
        warps = min(most, REGISTERS_OF_A_MULTIPROCESSOR // of_a_block * block)
        yield Kernel(arch, kind, scan, int(states or 1), int(registers), int(spilled), f'{warps} of {most}')


def count_instructions(disassembly: str, stretch: int = 64) -> dict[tuple[str, int], float]:
    """Count the instructions per element, by scan and states, of the kernels for one state.

    Tiles of a map are read, and written, by one of two branches, forwards or backwards. Both are counted, unless each
    has loops of its own; then the shorter branch is. If a warp moves 32 rows by other code than fewer rows, the code
    for 32, which is longer, is counted.

    Args:
        disassembly: Text that cuobjdump prints of a cubin.
        stretch: Number of positions of a row that a warp copies to shared memory at once, with a lane per row.
    """
    counts = {}
    for function in disassembly.split('Function : ')[1:]:
        name = re.match(r'\S*?' + NAME, function)
        if name is None or name[2] not in ('1', None):
            continue
        lines = re.findall(r'^\s+/\*([0-9a-f]{4,})\*/\s+(.*?);', function, re.M)
        code = [(int(address, 16), text) for address, text in lines]
        # Code for a diverged warp follows the last exit.
        end = max(address for address, text in code if re.match(r'(@\S+ )?EXIT', text))
        loops = []
        for address, text in code:
            target = re.search(r'\bBRA\b.*?\b(0x[0-9a-f]+)', text)
            if target and int(target[1], 16) < address < end:
                loops.append(range(int(target[1], 16), address + 1))
        # A position takes two powers, of softplus and of the decay. Of the loops with so many, that over whole tiles of
        # many items is the shortest: the others mask items, or contain it.
        powers = 2 * POSITIONS_OF_A_LANE
        tiles = [x for x in loops if _count(code, x, 'MUFU.EX2') >= powers]
        if not tiles:  # double has no such instruction
            continue
        tile = min(tiles, key=len)
        count = _length(code, tile) / POSITIONS_OF_A_LANE
        if name[1] in SCANS_BY_STRETCHES:
            count += _around_tile(code, loops, tile) / stretch
        elif name[1] in SCANS_BY_CHUNKS:
            count += _around_tile(code, loops, tile, _back) / CHUNK
        counts[name[1], 1] = count
    return counts


def _around_tile(
    code: Code, loops: Sequence[range], tile: range, of_loops: Callable[..., float] = lambda *_: 0
) -> float:
    """Number of instructions for a stretch or chunk besides its tiles.

    Args:
        code: Addresses and instructions of the kernel.
        loops: Loops of the kernel.
        tile: Loop over tiles.
        of_loops: Function (code, outermost, others) -> number of instructions of a warp in the loops over a stretch.
    """
    whole = min((x for x in loops if tile[0] in x and len(x) > len(tile)), key=len)
    within = [x for x in loops if x[0] in whole and x != whole]
    inner = [x for x in within if any(x[0] in y and len(y) > len(x) for y in within)]
    outer = [x for x in within if x not in inner]
    rest = [
        (address, text)
        for address, text in code
        if address in whole and not any(address in x for x in (*outer, *_shorter_ways(code, whole, outer)))
    ]
    return len(rest) + of_loops(code, outer, inner)


def _shorter_ways(code: Code, within: range, loops: Sequence[range]) -> Iterator[range]:
    """The shorter branch of each pair, of which the first ends with a jump over the second; loops do not count."""
    jumps = re.compile(r'(@\S+ )?BRA (?:\S+, )?(0x[0-9a-f]+)')
    found = [(address, jumps.match(text)) for address, text in code if address in within]
    targets = [(address, match[1], int(match[2], 16)) for address, match in found if match]
    straight = [(address, text) for address, text in code if not any(address in x for x in loops)]
    for over, condition, end in targets:
        for start, _, second in targets:
            if condition is None and start < over < second < end and second == over + 16:
                yield min(range(start + 16, second), range(second, end), key=lambda way: _length(straight, way))


def _back(code: Code, outer: Sequence[range], inner: Sequence[range]) -> float:
    """Count the loop over 8 positions that runs backwards, within one over 16 that sums; the tile is the forward."""
    back = next(x for x in inner if _count(code, x, 'MUFU'))
    sums = next(x for x in outer if back[0] in x)
    return (_length(code, back) / 8 + (_length(code, sums) - _length(code, back)) / 16) * CHUNK


def _count(code: Code, loop: range, pattern: str) -> int:
    """Number of instructions in a loop that match a pattern."""
    return sum(address in loop and re.search(pattern, text) is not None for address, text in code)


def _length(code: Code, loop: range) -> int:
    """Number of instructions in a loop."""
    return _count(code, loop, '')


def report(archs: Sequence[str], types: Sequence[str] = TYPES) -> list[Kernel]:
    """Compile all kernels and read the reports."""
    kernels = []
    disassembler = find_disassembler()
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder, 'kernels.cubin')
        for arch in archs:
            for kind in types:
                found = list(read_report(compile_kernels(kind, arch, cubin), kind, arch))
                if disassembler:
                    compile_kernels(kind, arch, cubin, '-DMMSPARX_VECTOR=8')
                    done = subprocess.run([disassembler, '-sass', cubin], stdout=subprocess.PIPE, text=True, check=True)
                    counts = count_instructions(done.stdout, STRETCHES.get(kind, 64))
                    for kernel in found:
                        kernel.instructions = counts.get((kernel.scan, kernel.states))
                kernels += found
    return kernels


def table(kernels: Sequence[Kernel]) -> str:
    """The kernels as a table in Markdown."""
    rows = ['| sm | type | scan | N | registers | spilled bytes | warps | instructions/element |']
    rows.append('|---|---|---|---|---|---|---|---|')
    order = {kind: i for i, kind in enumerate(TYPES)}
    for k in sorted(kernels, key=lambda k: (int(k.arch), order[k.type], SCANS.index(k.scan), k.states or 99)):
        count = '' if k.instructions is None else f'{k.instructions:.1f}'
        name = k.scan.replace('_', ' ')
        cells = (k.arch, k.type, name, k.states or 'any', k.registers, k.spilled, k.warps, count)
        rows.append('| ' + ' | '.join(map(str, cells)) + ' |')
    return '\n'.join(rows)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument('--arch', nargs='+', default=['80', '90'], help='architectures, as 90 for sm_90')
    parser.add_argument('--out', type=Path, default=Path('work_dirs/benchmarks'), help='folder (default: %(default)s)')
    args = parser.parse_args(argv)
    if missing():
        sys.exit(f'the kernels cannot be compiled: {missing()}')
    kernels = report(args.arch)
    nvcc = nvcc_version()
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / 'cuda_kernels.json'
    path.write_text(json.dumps({'nvcc': nvcc, 'kernels': [asdict(kernel) for kernel in kernels]}, indent=1) + '\n')
    text = f'`python -m benchmarks.cuda_kernels --arch {" ".join(args.arch)}`, nvcc {nvcc}\n\n{table(kernels)}\n'
    path.with_suffix('.md').write_text(text)
    print(f'{text}\n{path}\n{path.with_suffix(".md")}')


if __name__ == '__main__':
    main()
