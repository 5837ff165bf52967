"""nvcc's report on the CUDA kernels, and the committed table of it."""

import json

import pytest

from benchmarks import cuda_kernels
from benchmarks.cuda_kernels import Kernel, count_instructions, read_report, table

COMMITTED = cuda_kernels.SOURCES.parents[2] / 'benchmarks' / 'results' / 'nvcc' / 'cuda_kernels.json'
REPORT = """
ptxas info    : Compiling entry function '_ZN7mmsparx19add_partials_kernelINS0_8BFloat16EEEvA' for 'sm_90'
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 32 registers, used 0 barriers
ptxas info    : Compiling entry function '_ZN7mmsparx15backward_kernelINS0_8BFloat16ELi16EEEvA' for 'sm_90'
ptxas info    : Function properties for _ZN7mmsparx15backward_kernelINS0_8BFloat16ELi16EEEvA
    16 bytes stack frame, 12 bytes spill stores, 40 bytes spill loads
ptxas info    : Used 151 registers, used 0 barriers
ptxas info    : Compiling entry function '_ZN7mmsparx26small_cross_forward_kernelINS0_8BFloat16ELi1EEEvA' for 'sm_90'
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 48 registers, used 1 barriers
"""


def disassembly(of_tile: int) -> str:
    """A loop over parts of tiles, one over whole tiles, which has `of_tile` instructions besides powers, and others."""
    powers = ['MUFU.EX2 R2, R2'] * 16
    loops = [
        [*powers[:4], 'FADD R2, R2, R2'],
        [*powers, *['FADD R2, R2, R2'] * (of_tile + 1)],
        [*powers, *['FADD R2, R2, R2'] * of_tile],
        ['FADD R2, R2, R2'],
    ]
    code = ['MOV R1, c[0x0][0x28]']
    for loop in loops:
        code += [*loop, f'@!P0 BRA {16 * len(code):#x}']
    # Code for a diverged warp follows the exit.
    code += ['EXIT', 'WARPSYNC.COLLECTIVE R3, 0x20', *powers, f'BRA {16 * len(code):#x}']
    return '\n'.join(
        [
            '\t\tFunction : _ZN7mmsparx14forward_kernelIfLi1EEEvA',
            *(f'        /*{16 * i:04x}*/                   {text} ;' for i, text in enumerate(code)),
            '\t\tFunction : _ZN7mmsparx14forward_kernelIfLi0EEEvA',
            '        /*0000*/                   MUFU.EX2 R2, R2 ;',
            '        /*0010*/                   EXIT ;',
        ]
    )


needs_nvcc = pytest.mark.skipif(cuda_kernels.missing() is not None, reason=str(cuda_kernels.missing()))


def test_the_assemblers_report():
    assert list(read_report(REPORT, 'bfloat16', '90')) == [
        Kernel('90', 'bfloat16', 'backward', 16, registers=151, spilled=12, warps='13 of 64'),
        Kernel('90', 'bfloat16', 'small_cross_forward', 1, registers=48, spilled=0, warps='42 of 64'),
    ]
    kernel, _ = read_report(REPORT.replace('Used 151', 'Used 40'), 'bfloat16', '89')
    assert kernel.warps == '48 of 48'


def test_instructions_of_the_loop_over_whole_tiles():
    assert count_instructions(disassembly(of_tile=5)) == {('forward', 1): (16 + 5 + 1) / 8}


def assembled(kernel: str, *parts: str | list) -> str:
    """A kernel's disassembly; a list is a loop of its parts, and +2 is the address of the next instruction but one."""
    code = []

    def append(parts):
        for part in parts:
            if isinstance(part, str):
                code.append(part)
            else:
                start = len(code)
                append(part)
                code.append(f'@!P0 BRA {16 * start:#x}')

    append(parts)
    lines = []
    for i, text in enumerate([*code, 'EXIT']):
        jump, _, over = text.partition('+')
        text = f'{jump}{16 * (i + int(over)):#x}' if over else text
        lines.append(f'        /*{16 * i:04x}*/                   {text} ;')
    return '\n'.join([f'\t\tFunction : _ZN7mmsparx{kernel}INS0_4HalfEEEvA', *lines])


def test_instructions_of_a_stretch():
    few_rows, rows = ['@P0 BRA +5', ['LDG R2, [R4]'], 'MOV R2, R3', 'BRA +4'], ['LDG R2, [R4]'] * 3
    stretch = [*few_rows, *rows, ['MUFU.EX2 R2, R2'] * 16, ['MUFU.EX2 R2, R2'] * 2, 'STG [R4], R2']
    text = assembled('19lane_forward_kernel', 'MOV R2, R3', stretch)
    # These are the instructions of the tile, of the loop that moves the stretch, and the jump to it; neither those
    # after the last tile nor those that move fewer than 32 rows.
    assert count_instructions(text) == {('lane_forward', 1): 17 / 8 + 6 / 64}


@pytest.mark.parametrize('powers', [8, 16])  # of the backward pass, where float has the derivatives already
def test_instructions_of_a_chunk(powers):
    forth, last = ['MUFU.EX2 R2, R2'] * 16, [*['MUFU.EX2 R2, R2'] * 16, ['STS [R5], R2'], 'MOV R2, R3']
    sums = ['MOV R2, R3', [*['MUFU.EX2 R2, R2'] * powers, *['FADD R2, R2, R2'] * 20], 'STG [R4], R2']
    few_rows, rows = ['@P0 BRA +5', ['LDG R2, [R4]'], 'MOV R2, R3', 'BRA +4'], ['LDG R2, [R4]'] * 3
    text = assembled('20lane_backward_kernel', [*few_rows, *rows, 'MOV R2, R3', forth, last, sums, 'STG [R4], R2'])
    # Instructions for fewer than 32 rows do not count, except for the jump to those for 32.
    assert count_instructions(text) == {('lane_backward', 1): 17 / 8 + (powers + 21) / 8 + 3 / 16 + 7 / 64}


def test_the_table():
    kernels = [
        Kernel('90', 'half', 'backward', 0, 151, 12, '12 of 64'),
        Kernel('90', 'half', 'forward', 1, 64, 0, '32 of 64', 44.04),
        Kernel('90', 'half', 'cross_forward', 1, 64, 0, '32 of 64', 50.0),
        Kernel('80', 'half', 'forward', 1, 64, 0, '32 of 64'),
    ]
    assert table(kernels).splitlines()[2:] == [
        '| 80 | half | forward | 1 | 64 | 0 | 32 of 64 |  |',
        '| 90 | half | forward | 1 | 64 | 0 | 32 of 64 | 44.0 |',
        '| 90 | half | backward | any | 151 | 12 | 12 of 64 |  |',
        '| 90 | half | cross forward | 1 | 64 | 0 | 32 of 64 | 50.0 |',
    ]


def test_a_source_that_does_not_compile(tmp_path, monkeypatch):
    if cuda_kernels.missing():
        pytest.skip(cuda_kernels.missing())
    (tmp_path / 'kernels_float.cu').write_text('#error "too old"\n')
    monkeypatch.setattr(cuda_kernels, 'SOURCES', tmp_path)
    with pytest.raises(RuntimeError, match=r'nvcc .*kernels_float.cu failed:\n.*too old'):
        cuda_kernels.compile_kernels('float', '90', tmp_path / 'kernels.cubin')


@needs_nvcc
# These are two of the six, each of which takes nvcc some 20 s.
@pytest.mark.parametrize(('kind', 'arch'), [('float', '90'), ('bfloat16', '80')])
def test_the_committed_table(kind, arch, tmp_path):
    """Every kernel compiles; those for one state do not spill registers."""
    found = list(read_report(cuda_kernels.compile_kernels(kind, arch, tmp_path / 'kernels.cubin'), kind, arch))
    assert len(found) == 2 * 3 + 3 * 2 + 5  # plain scans and cross scans by states, and kernels with a lane per row
    for kernel in found:
        if kernel.states == 1:
            assert kernel.spilled == 0
            # Half of all warps fit; 28 with small maps, and 20 where the shared memory is enough for 22 at most.
            most = dict.fromkeys(cuda_kernels.SCANS_BY_STRETCHES, 96) | {'lane_small_cross_forward': 72}
            assert 'backward' in kernel.scan or kernel.registers <= most.get(kernel.scan, 64)
    committed = json.loads(COMMITTED.read_text())
    if committed['nvcc'] != cuda_kernels.nvcc_version():
        pytest.skip(f'the table is of nvcc {committed["nvcc"]}, this one is {cuda_kernels.nvcc_version()}')
    theirs = [Kernel(**row) for row in committed['kernels']]
    for kernel in found:
        same = [x for x in theirs if kernel == Kernel(**{**vars(x), 'instructions': None})]
        assert same, (
            f'{kernel}: make the table again, by python -m benchmarks.cuda_kernels --out benchmarks/results/nvcc'
        )
