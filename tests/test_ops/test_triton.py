"""The Triton kernels: `test_triton_kernels` in Triton's interpreter, and the compiled code."""

import importlib.util
import itertools
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mmsparx.ops import triton_runtime
from mmsparx.ops.selective_scan import triton_backend

FOLDER = Path(__file__).parent
needs_triton = pytest.mark.skipif(triton_runtime.missing() is not None, reason=str(triton_runtime.missing()))
# The files that the interpreter runs, the tests of each, and how many of them must pass. A row of a map takes it
# milliseconds, so it runs one case of each kind of convolution, on small maps.
RUN = {
    'test_triton_kernels': ('test', 180),
    'test_map_norm': ('triton', 45),
    'test_depthwise_conv': (
        'triton and ((opcheck and dtype0 and True) or autocast or nothing or far_from or everything or without_a_bias'
        ' or several_programs or finite or (16_bit and dtype1 and True and gelu) or (double and False and silu))',
        15,
    ),
}


@needs_triton
@pytest.mark.skipif(importlib.util.find_spec('numpy') is None, reason="Triton's interpreter needs numpy")
def test_in_the_interpreter():
    """The tests pass in a separate process, and no fewer tests than expected are run."""
    # The variables by which pytest and xdist configure their processes do not apply to this one.
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith('PYTEST_') and name != triton_runtime.INTERPRET
    }
    chosen = ' or '.join(f'({file} and {tests})' for file, (tests, _) in RUN.items())
    options = ['-v', '-p', 'no:cacheprovider', '-W', 'ignore::RuntimeWarning', '-k', chosen]
    done = subprocess.run(
        [sys.executable, '-m', 'pytest', *options, *(str(FOLDER / f'{file}.py') for file in RUN)],
        env=inherited | {triton_runtime.INTERPRET: '1'},
        cwd=FOLDER.parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for file, (_, least) in RUN.items():
        assert len(re.findall(rf'{file}\.py::.* PASSED', done.stdout)) > least, done.stdout


@needs_triton
@pytest.mark.skipif(
    bool(os.environ.get(triton_runtime.INTERPRET)), reason=f'{triton_runtime.INTERPRET} is set: nothing is compiled'
)
class TestCompiled:
    @pytest.fixture(autouse=True)
    def triton_compile(self, tmp_path, monkeypatch):
        monkeypatch.setenv('TRITON_CACHE_DIR', str(tmp_path))
        return pytest.importorskip('helpers.triton_compile')

    @pytest.fixture
    def needs_assembler(self, triton_compile):
        if not triton_compile.PTXAS.is_file():
            pytest.skip('this Triton has no ptxas')

    @pytest.mark.usefixtures('needs_assembler')
    @pytest.mark.parametrize(
        ('dtype', 'states', 'length', 'capability'),
        [
            (torch.float32, 1, 3136, 80),
            (torch.float32, 1, 3136, 90),
            (torch.float32, 1, 49, 80),
            (torch.bfloat16, 1, 784, 90),
            (torch.float16, 16, 3136, 80),
            (torch.float16, 16, 3136, 90),
        ],
    )
    def test_everything_is_kept_in_registers(self, dtype, states, length, capability, triton_compile):
        with triton_compile.compiling(capability) as compiled:
            triton_compile.launch_both(length, dim=32, dtype=dtype, states=states)
        assert [kernel.name for kernel in compiled] == ['scan_forward', 'scan_backward']
        for kernel in compiled:
            registers, spilled = triton_compile.resources(kernel, capability)
            assert 0 < registers <= 255
            assert spilled == 0

    @pytest.mark.usefixtures('needs_assembler')
    @pytest.mark.parametrize(
        ('dtype', 'side', 'capability'),
        [(torch.float32, 56, 80), (torch.float32, 7, 90), (torch.bfloat16, 14, 80), (torch.float64, 33, 90)],
    )
    def test_maps_are_kept_in_registers(self, dtype, side, capability, triton_compile):
        with triton_compile.compiling(capability) as compiled:
            triton_compile.reorder_both(1, 32, side, side, dtype=dtype)
        assert [kernel.name for kernel in compiled] == ['map_to_sequences', 'sum_of_sequences']
        for kernel in compiled:
            registers, spilled = triton_compile.resources(kernel, capability)
            assert 0 < registers <= 255
            assert spilled == 0

    @pytest.mark.usefixtures('needs_assembler')
    @pytest.mark.parametrize(
        ('dtype', 'size', 'read', 'capability'),
        [(torch.bfloat16, 56, 'v4.b32', 90), (torch.float32, 14, 'v4.b32', 80), (torch.float32, 7, 'b32', 90)],
    )
    def test_norms_are_kept_in_registers(self, dtype, size, read, capability, triton_compile):
        with triton_compile.compiling(capability) as compiled:
            triton_compile.normalise_both(2, 64, size, size, dtype=dtype)
        assert [kernel.name for kernel in compiled] == ['part_statistics', 'normalise', 'channel_sums', 'gradient']
        for kernel in compiled:
            registers, spilled = triton_compile.resources(kernel, capability)
            assert 0 < registers <= 128
            assert spilled == 0
        assert f'ld.global.{read}' in compiled[1].asm['ptx']

    @pytest.mark.usefixtures('needs_assembler')
    @pytest.mark.parametrize(
        ('dtype', 'size', 'side', 'activation', 'capability'),
        [
            (torch.bfloat16, 56, 3, 'gelu', 80),
            (torch.float32, 14, 5, 'silu', 80),
            (torch.float32, 14, 5, 'silu', 90),
            (torch.bfloat16, 7, 5, 'silu', 90),
        ],
    )
    def test_convolutions_are_kept_in_registers(self, dtype, size, side, activation, capability, triton_compile):
        with triton_compile.compiling(capability) as compiled:
            triton_compile.convolve_both(2, 64, size, size, side=side, activation=activation, dtype=dtype)
        assert [kernel.name for kernel in compiled] == ['convolve', 'convolve', 'gradients']
        for kernel in compiled:
            registers, spilled = triton_compile.resources(kernel, capability)
            assert 0 < registers <= 128
            assert spilled == 0

    @pytest.mark.usefixtures('needs_assembler')
    @pytest.mark.parametrize(
        ('dtype', 'states'), [(torch.float64, 1), (torch.float64, 3), (torch.float32, 5), (torch.bfloat16, 256)]
    )
    def test_any_other(self, dtype, states, triton_compile):
        with triton_compile.compiling(90) as compiled:
            triton_compile.launch_both(70, dtype=dtype, states=states)
        assert len(compiled) == 2

    def test_no_double_precision_but_for_double_inputs(self, triton_compile):
        with triton_compile.compiling(90) as compiled:
            triton_compile.launch_both(70)
            triton_compile.reorder_both(1, 2, 7, 10)
            triton_compile.normalise_both(1, 2, 7, 10)
            triton_compile.convolve_both(1, 2, 7, 10, side=3, activation='gelu')
        assert not any('.f64' in kernel.asm['ptx'] for kernel in compiled)

    def test_aligned_rows_are_loaded_by_16_bytes(self, triton_compile):
        with triton_compile.compiling(90) as compiled:
            triton_compile.launch_both(3136, dim=32)
        for kernel in compiled:
            ptx = kernel.asm['ptx']
            assert 'ld.global.v4' in ptx
            assert 'st.global.v4' in ptx

    # The layout is the same in all four directions, with adjacent lanes: a thread has one vector of a 1-dimensional
    # tile.
    @pytest.mark.parametrize(
        ('dtype', 'shape', 'align', 'width'),
        [
            (torch.float32, (56, 56), 4, '.v4.b32'),
            (torch.bfloat16, (56, 48), 8, '.v4.b32'),
            (torch.float32, (14, 100), 2, '.v2.b32'),
            (torch.float32, (7, 7), 1, '.b32'),
            (torch.bfloat16, (33, 48), 1, '.b16'),
            (torch.float64, (14, 14), 2, '.v2.b64'),
        ],
    )
    def test_maps_are_read_and_written_in_vectors_side_by_side(self, dtype, shape, align, width, triton_compile):
        with triton_compile.compiling(90) as compiled:
            triton_compile.reorder_both(2, 32, *shape, dtype=dtype)
        for kernel in compiled:
            assert set(re.findall(r'(?:ld|st)\.global([.\w]*)', kernel.asm['ptx'])) == {width}
            accesses = re.findall(r'tt\.(?:load|store) .*, (#\w+)>', kernel.asm['ttgir'])
            assert len(accesses) == 5
            layouts = dict(re.findall(r'^(#\w+) = #ttg\.(.*)$', kernel.asm['ttgir'], re.MULTILINE))
            for name in accesses:
                assert f'sizePerThread = [{align}], threadsPerWarp = [32]' in layouts[name]

    def test_one_variant_for_every_map_of_a_kind(self, triton_compile):
        with triton_compile.compiling(90) as compiled:
            for shape in ((1, 32, 36, 68), (3, 40, 100, 44), (2, 1, 1000, 28)):
                triton_compile.reorder_both(*shape)
            assert len(compiled) == 2
            triton_compile.reorder_both(1, 32, 37, 68)  # another alignment
            triton_compile.reorder_both(1, 32, 16, 68)  # another tile
            assert len(compiled) == 6

    def test_maps_beyond_32_bits(self, triton_compile):
        with triton_compile.compiling(90) as compiled:
            for batch_stride, height in ((2**34, 64), (2**32, 2**16)):
                x = torch.empty_strided((2, 1, height, 2**16), (batch_stride, 1, 2**16, 1), device='meta')
                triton_backend.from_sequences(triton_backend.to_sequences(x), height, 2**16)
        signatures = [kernel.src.signature for kernel in compiled]
        assert [(x['length'], x['height'], x.get('x_batch')) for x in signatures] == [
            ('i32', 'i32', 'i64'),
            ('i32', 'i32', None),
            ('i64', 'i32', 'i64'),
            ('i64', 'i32', None),
        ]

    def test_one_variant_for_every_length_and_batch(self, triton_compile):
        with triton_compile.compiling(90) as compiled:
            for length in (68, 100, 128, 784, 1000, 3136):
                triton_compile.launch_both(length, dim=32, groups=2)
            triton_compile.launch_both(2000, dim=64, groups=4, batch=3)
            triton_compile.launch_both(400, dim=17, groups=1)
            assert len(compiled) == 2  # a forward and a backward
            # Lengths up to 64 in the forward, and every alignment, have variants of their own.
            triton_compile.launch_both(48, dim=32)
            assert len(compiled) == 3
            for length in (101, 333, 999):
                triton_compile.launch_both(length, dim=32)
            assert len(compiled) == 5
            for length in (102, 998):
                triton_compile.launch_both(length, dim=32)
            assert len(compiled) == 7

    def test_sizes_beyond_32_bits(self, triton_compile):
        def launch(length, row):
            shapes = ((1, 2, length), (1, 2, length), (2, 1), (1, 1, 1, length), (1, 1, 1, length))
            u, *others = (torch.empty(shape, device='meta') for shape in shapes)
            u = torch.empty_strided(u.shape, (2 * row, row, 1), device='meta')
            triton_backend.forward(u, *others, None, None, True)

        with triton_compile.compiling(90) as compiled:
            launch(1000, 2**34)
            launch(2**31 + 4, 2**31 + 4)
        rows, length = (kernel.src.signature for kernel in compiled)
        assert (rows['length'], rows['u_row'], rows['delta_row']) == ('i32', 'i64', 'i32')
        assert (length['length'], length['u_row']) == ('i64', 'i64')


@pytest.mark.parametrize(
    ('dtype', 'length', 'change', 'expected'),
    [
        (torch.float32, 3136, None, 4),
        (torch.bfloat16, 3136, None, 8),
        (torch.bfloat16, 196, None, 4),
        (torch.float32, 98, None, 2),
        (torch.float32, 49, None, 1),
        (torch.float64, 64, None, 2),
        (torch.float32, 64, lambda x: torch.empty(x.numel() + 1)[1:].view(x.shape), 1),  # 4 bytes off
        (torch.float32, 64, lambda x: torch.empty(*x.shape[:2], 66)[..., :64], 2),  # rows 66 apart
        (torch.float32, 64, lambda x: x[:1].expand_as(x), 4),
    ],
)
def test_alignment(dtype, length, change, expected):
    x = torch.empty(2, 4, length, dtype=dtype)
    assert triton_backend.alignment(length, (x, change(x) if change else x)) == expected


def test_alignment_of_a_side():
    x = torch.empty(2, 4, 14 * 16)
    assert [triton_backend.alignment(14 * 16, (x,), side) for side in (16, 14, 7)] == [4, 2, 1]


def test_tiles_of_maps():
    for channels, height, width in itertools.product((1, 3, 96, 1000), (1, 7, 14, 33, 800), (1, 7, 28, 56, 1333)):
        tile = triton_backend.map_tile(channels, height, width)
        sides = [tile[name] for name in ('CHANNELS', 'ROWS', 'COLUMNS')]
        assert all(side & (side - 1) == 0 for side in sides)
        assert math.prod(sides) <= 512 * tile['num_warps'] == 512 * max(sides[1] * sides[2] // 512, 1)
    for side in (7, 14, 28, 56, 112):
        tile = triton_backend.map_tile(96, side, side)
        for size, part in ((96, tile['CHANNELS']), (side, tile['ROWS']), (side, tile['COLUMNS'])):
            assert -(-size // part) * part <= size * 8 / 7


@pytest.mark.parametrize('direction', ['forward', 'backward'])
def test_blocks_have_no_more_rows_than_a_group_rounded_up(direction):
    for channels in (1, 2, 3, 5, 16, 192):
        rows = triton_backend.block(direction, channels, 100, 4)['ROWS']
        assert rows & (rows - 1) == 0
        assert rows < 2 * channels
    assert triton_backend.block(direction, 192, 100, 4) == triton_backend.block(direction, 1000, 3136, 4)
