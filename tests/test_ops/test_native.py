"""The compiled kernels: every instruction set at every border, threads, memory, and messages without them."""

import json
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
import warnings
from functools import cache
from pathlib import Path

import pytest
import torch
from helpers import gpu_kernels, relative_error
from helpers.kernels import assert_close_to_truth, inputs, run

from mmsparx.ops import available_backends, native, selective_scan
from mmsparx.ops.selective_scan import reference

needs_native = pytest.mark.skipif(
    native.missing() is not None, reason=f'the compiled kernels are not here: {native.missing()}'
)

# Lengths are around vectors of 4, 8 and 16 lanes, chunks of 64 and tiles of 256 positions; those of the stages of an
# image of 224 x 224; and long ones.
LENGTHS = [
    1,
    2,
    15,
    16,
    17,
    31,
    32,
    33,
    49,
    63,
    64,
    65,
    196,
    255,
    256,
    257,
    784,
    1023,
    1024,
    1025,
    2047,
    2048,
    2049,
    3136,
]
forward = torch.ops.mmsparx.selective_scan_fwd
backward = torch.ops.mmsparx.selective_scan_bwd


@pytest.fixture(params=native.instruction_sets() or ['none'])
def instruction_set(request):
    if request.param == 'none':
        pytest.skip(f'the compiled kernels are not here: {native.missing()}')
    with native.use_instruction_set(request.param):
        yield request.param


@pytest.mark.gpu
@pytest.mark.skipif(gpu_kernels.gpu_missing() is not None, reason=f'not on a GPU: {gpu_kernels.gpu_missing()}')
def test_a_gpu_is_tested_where_there_is_one(request):
    assert [item for item in request.session.items if '[gpu' in item.name or '-gpu' in item.name]


@cache
def long_truth(length):
    """float32 inputs, and the results in float64."""
    tensors = inputs(length, dim=2, groups=1)
    grad = torch.randn(tensors[0].shape, generator=torch.Generator().manual_seed(1))
    return tensors, run([x.double() for x in tensors], 'reference', grad=grad)


class TestTruth:
    @pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float16])
    @pytest.mark.parametrize('length', LENGTHS)
    def test_lengths(self, length, dtype, kernels):
        assert_close_to_truth(inputs(length, dtype=dtype), kernels)

    @pytest.mark.parametrize('states', [1, 2, 16, 64])
    @pytest.mark.parametrize('length', [17, 257])
    def test_states(self, length, states, kernels):
        u, delta, A, B, C, D, bias = inputs(length, states=states)
        assert_close_to_truth((u, delta, A, B, C, D, bias), kernels)
        # The recurrence without the softplus is only bounded if the step is positive.
        assert_close_to_truth((u, delta.abs(), A, B, C, D, bias.abs()), kernels, softplus=False)

    @pytest.mark.parametrize(('dim', 'groups'), [(656, 4), (792, 4), (1272, 4), (1, 1), (3, 3), (33, 1)])
    def test_channels(self, dim, groups, kernels):
        assert_close_to_truth(inputs(65, dim=dim, groups=groups, batch=2), kernels)

    @pytest.mark.parametrize('length', [16384, 64000])
    def test_long_sequences(self, length, kernels):
        tensors, truth = long_truth(length)
        for ours, exact in zip(run(tensors, kernels), truth, strict=True):
            assert relative_error(ours, exact) < 2e-6

    @pytest.mark.parametrize('length', [1, 7, 65, 257])
    def test_double(self, length, kernels):
        tensors = inputs(length, states=2, batch=2, dtype=torch.float64)
        for ours, exact in zip(run(tensors, kernels), run(tensors, 'reference'), strict=True):
            assert relative_error(ours, exact) < 1e-13

    def test_as_many_states_as_the_cuda_kernels_take(self, kernels):
        tensors = inputs(3, dim=1, groups=1, states=1024, dtype=torch.float64)
        for ours, exact in zip(run(tensors, kernels), run(tensors, 'reference'), strict=True):
            assert relative_error(ours, exact) < 1e-13

    def test_no_channels(self, kernels):
        tensors = inputs(5, dim=0, groups=2, states=3)
        for ours, exact in zip(run(tensors, kernels), run(tensors, 'reference'), strict=True):
            assert torch.equal(ours, exact)

    @pytest.mark.emulated
    @pytest.mark.parametrize(
        ('rows', 'groups', 'states', 'length', 'expected'),
        [
            (4, 4, 1, 67200, 8192),  # a block a row: an eighth, in tiles of 256 positions
            (4, 4, 1, 2048, 256),
            (4, 4, 16, 67200, 512),
            (4096, 4, 1, 67200, 67200),  # blocks of 16 rows
            (4, 4, 1, 200, 200),
        ],
    )
    def test_partial_sums_are_bounded(self, rows, groups, states, length, expected, use):
        use('emulated')
        positions = torch.ops.mmsparx_emulated.partial_positions(1, rows, groups, states, length)
        assert positions == expected

    @pytest.mark.parametrize('states', [1, 2])
    @pytest.mark.parametrize('first', [True, False])
    def test_any_backward_reads_any_forward(self, first, states, kernels):
        forth, back = (kernels, 'reference') if first else ('reference', kernels)
        tensors = inputs(600, states=states, dtype=torch.float64)
        out, states = forward(*tensors, True, forth)
        for ours, exact in zip(
            backward(out, *tensors, states, True, back), backward(out, *tensors, states, True, forth), strict=True
        ):
            assert relative_error(ours, exact) < 1e-13

    def test_decay_above_one_overflows_to_infinity(self, kernels):
        u, delta, A, B, C, D, bias = inputs(40)
        out, _ = forward(u, delta + 100, A.abs() + 1, B, C, D, bias, True, kernels)
        expected, _ = forward(u, delta + 100, A.abs() + 1, B, C, D, bias, True, 'reference')
        assert torch.equal(out.isfinite(), expected.isfinite())
        assert not out.isfinite().all()

    @pytest.mark.parametrize('length', [1, 17, 64])
    def test_a_state_that_forgets_at_once(self, length, kernels):
        # A = -inf: the decay is 0, but beyond the end, where the step is 0, it must not be exp(0 * inf).
        u, delta, A, B, C, D, bias = inputs(length)
        tensors = (u, delta, torch.full_like(A, -torch.inf), B, C, D, bias)
        for ours, expected in zip(run(tensors, kernels), run(tensors, 'reference'), strict=True):
            assert torch.equal(ours.isnan(), expected.isnan())
            assert relative_error(ours.nan_to_num(), expected.nan_to_num()) < 1e-6

    @pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
    def test_every_16_bit_number_is_read_and_written_exactly(self, dtype, kernels):
        # The output is D u with D = 1, and nothing else.
        bits = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(16, -1)
        u = bits.view(dtype).unsqueeze(0)
        u = u.where(u.isfinite(), torch.ones_like(u))  # times B = 0 they would be NaN
        zero = torch.zeros(1, 1, 1, u.shape[2], dtype=dtype)
        out, _ = forward(u, torch.zeros_like(u), torch.zeros(16, 1), zero, zero, torch.ones(16), None, False, kernels)
        assert torch.equal(out, u)

    @pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
    def test_rounding_to_16_bits_is_torchs(self, dtype, kernels):
        generator = torch.Generator().manual_seed(0)
        u = torch.randn(1, 8, 4096, generator=generator).mul(2.0 ** torch.arange(-28, 20, 6).view(8, 1)).to(dtype)
        zero = torch.zeros(1, 1, 1, u.shape[2], dtype=dtype)
        D = torch.rand(8, generator=generator)
        out, _ = forward(u, torch.zeros_like(u), torch.zeros(8, 1), zero, zero, D, None, False, kernels)
        assert torch.equal(out, (u.float() * D.view(8, 1)).to(dtype))

    @pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
    def test_rounding_at_the_largest_numbers_is_torchs(self, dtype, kernels):
        # There is a channel of one position for each pair, since a state that is NaN stays so.
        numbers = torch.tensor([1.0, -1.0, torch.inf, -torch.inf, torch.nan])
        factors = torch.tensor([65503.0, 65519.0, 65520.0, 1e5, 3.39e38, 3.4e38])
        u = numbers.repeat(6).to(dtype).view(1, 30, 1)
        D = factors.repeat_interleave(5)
        zero = torch.zeros(1, 1, 1, 1, dtype=dtype)
        out, _ = forward(u, torch.zeros_like(u), torch.zeros(30, 1), zero, zero, D, None, False, kernels)
        expected = (u.float() * D.view(30, 1) + 0 * u.float()).to(dtype)  # a state of 0 * u as well
        assert torch.equal(out.isnan(), expected.isnan())
        assert torch.equal(out.nan_to_num(7), expected.nan_to_num(7))


class TestMemory:
    @pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
    def test_misaligned_storage(self, dtype, kernels):
        """A single misaligned tensor must not be read as widely as the others; all are tested, too."""
        tensors = inputs(136, states=2, batch=2, dtype=dtype)
        out, states = forward(*tensors, True, kernels)
        arguments = [torch.randn(out.shape).to(out), *tensors]
        expected = backward(*arguments, states, True, kernels)

        def moved(x):
            storage = torch.full((x.numel() + 3,), torch.nan, dtype=x.dtype)
            return storage[3:].view(x.shape).copy_(x)

        for these in (*({i} for i in range(len(arguments))), set(range(len(arguments)))):
            changed = [moved(x) if i in these else x for i, x in enumerate(arguments)]
            assert torch.equal(forward(*changed[1:], True, kernels)[0], out)
            for ours, theirs in zip(backward(*changed, states, True, kernels), expected, strict=True):
                assert torch.equal(ours, theirs)

    def test_rows_of_larger_tensors_are_read_in_place(self, kernels):
        tensors = inputs(130, states=2, batch=2)

        def inner(x):
            larger = torch.full([n + 2 for n in x.shape], torch.nan, dtype=x.dtype)
            view = larger[tuple(slice(1, -1) for _ in x.shape)]
            return view.copy_(x)

        for ours, expected in zip(run([inner(x) for x in tensors], kernels), run(tensors, kernels), strict=True):
            assert torch.equal(ours, expected)

    @pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
    @pytest.mark.parametrize('length', [1, 49, 300])
    def test_nothing_beyond_the_inputs_ends_is_used_or_changed(self, length, dtype, kernels):
        # All inputs are in one storage with NaN between them; a read beyond an end would show in the results.
        tensors = inputs(length, states=2, dtype=dtype)

        def guarded(x):
            storage = torch.full((x.numel() + 128,), torch.nan, dtype=x.dtype)
            return storage[64:-64].view(x.shape).copy_(x)

        inner = [guarded(x) for x in tensors]
        for ours, expected in zip(run(inner, kernels), run(tensors, kernels), strict=True):
            assert torch.equal(ours, expected)
            assert ours.isfinite().all()
        for x in inner:
            storage = torch.empty(0, dtype=x.dtype).set_(x.untyped_storage())
            assert storage[:64].isnan().all()
            assert storage[-64:].isnan().all()


class TestThreads:
    @pytest.mark.parametrize(('dim', 'length', 'batch'), [(192, 300, 2), (40, 4000, 1)])
    def test_results_are_the_same_bits(self, dim, length, batch, instruction_set):
        tensors = inputs(length, dim=dim, groups=4, batch=batch, states=2)
        expected = run(tensors, 'native')
        for threads in (1, 2, 3, 5):
            torch.set_num_threads(threads)
            for _ in range(2):
                assert all(torch.equal(a, b) for a, b in zip(run(tensors, 'native'), expected, strict=True))

    @needs_native
    def test_one_openmp_runtime(self):
        """The kernels run on torch's threads: a second runtime would have a second pool of them."""
        code = (
            'import torch, mmsparx.ops; x = torch.ones(4, 64, 4096); B = torch.ones(4, 1, 4096); '
            'mmsparx.ops.selective_scan(x, x, -torch.ones(64, 1), B, B); '
            'print(open("/proc/self/maps").read())'
        )
        if not Path('/proc/self/maps').exists():
            pytest.skip('needs /proc/self/maps')
        maps = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout
        runtimes = {line.split()[-1] for line in maps.splitlines() if 'libgomp' in line or 'libiomp' in line}
        assert len(runtimes) == 1, runtimes

    @needs_native
    @pytest.mark.parametrize('start', ['fork', 'spawn'])
    def test_two_processes_at_once(self, start):
        tensors = inputs(300, dim=64, groups=4)
        expected = run(tensors, 'native')
        context = multiprocessing.get_context(start)
        with context.Pool(2) as pool:
            for found in pool.map(_run_in_child, [300] * 2):
                assert all(torch.equal(torch.tensor(a), b) for a, b in zip(found, expected, strict=True))


def _run_in_child(length):
    # The results are lists: tensors would travel by shared memory, which this test is not about.
    return [x.tolist() for x in run(inputs(length, dim=64, groups=4), 'native')]


@needs_native
class TestInstructionSets:
    @pytest.mark.skipif(native.VARIABLE in os.environ, reason=f'{native.VARIABLE} names another one')
    def test_the_best_is_in_use(self):
        assert native.instruction_set() == native.instruction_sets()[0]
        assert native.instruction_sets()[-1] == 'baseline'

    def test_use_is_undone(self):
        def fail():
            with native.use_instruction_set('baseline'):
                assert native.instruction_set() == 'baseline'
                raise KeyError

        with pytest.raises(KeyError):
            fail()
        assert native.instruction_set() == native.instruction_sets()[0]

    def test_unknown(self):
        known = ', '.join(native.instruction_sets())
        with pytest.raises(
            ValueError, match=f"'sse9', asked for by use_instruction_set; this machine.* have: {known}$"
        ):
            native.use_instruction_set('sse9').__enter__()
        with pytest.raises(RuntimeError, match=f"unknown instruction set 'sse9'; this machine and build have: {known}"):
            torch.ops.mmsparx.use_cpu_instruction_set('sse9')

    @pytest.mark.parametrize('value', ['baseline', 'sse9'])
    def test_by_environment(self, value):
        code = 'from mmsparx.ops import native; print(native.instruction_set())'
        done = subprocess.run(
            [sys.executable, '-c', code],
            env={**os.environ, native.VARIABLE: value},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0
        if value == 'baseline':
            assert done.stdout == 'baseline\n'
            assert native.VARIABLE not in done.stderr  # torch has warnings of its own, such as of a missing triton
        else:
            assert done.stdout.strip() == native.instruction_sets()[0]
            assert (
                f"unknown instruction set 'sse9', asked for by the environment variable {native.VARIABLE}"
                in done.stderr
            )


@needs_native
class TestChecks:
    """The operator without its interface: an error rather than a read of foreign memory."""

    @pytest.mark.parametrize(
        ('index', 'change', 'message'),
        [
            (0, lambda u: u[:, :, :0], 'expected u of shape'),
            (0, lambda u: u.int(), 'expected u in Double, Float'),
            (1, lambda x: x[:, :, :4], r'expected delta of shape \[1, 8, 5\]'),
            (1, lambda x: x.double(), 'expected delta in Float'),
            (2, lambda x: x[:4], r'expected A of shape \(8, N\)'),
            (2, lambda x: x.double(), 'expected A in Float'),
            (3, lambda x: x[:, 0], r'expected B of shape \(batch, G, N, L\)'),
            (3, lambda x: x[:, [0, 1, 1]], 'that divide 8 channels, got 3'),
            (4, lambda x: x[..., :4], r'expected C of shape \[1, 2, 1, 5\]'),
            (5, lambda x: x[:4], r'expected D of shape \[8\]'),
            (6, lambda x: x.double(), 'expected delta_bias in Float'),
        ],
    )
    def test_forward(self, index, change, message):
        tensors = list(inputs(5))
        tensors[index] = change(tensors[index])
        with pytest.raises(RuntimeError, match=f'^selective_scan: .*{message}'):
            torch.ops.mmsparx.selective_scan_fwd_native(*tensors, True)

    def test_backward(self):
        tensors = inputs(5)
        out, states = forward(*tensors, True, 'native')
        with pytest.raises(RuntimeError, match=r'expected grad of shape \[1, 8, 5\]'):
            torch.ops.mmsparx.selective_scan_bwd_native(out[..., 1:], *tensors, states, True)
        with pytest.raises(RuntimeError, match=r'expected states of shape \[1, 8, 2, 1\]'):
            torch.ops.mmsparx.selective_scan_bwd_native(out, *tensors, states[:, :, 1:], True)


def test_it_is_the_first_choice_on_a_cpu():
    assert next(iter(available_backends())) == 'native'
    if native.missing() is None:
        tensors = inputs(5)
        with warnings.catch_warnings():
            warnings.simplefilter('error')
            auto = selective_scan(*tensors[:6], delta_bias=tensors[6])
        assert torch.equal(auto, selective_scan(*tensors[:6], delta_bias=tensors[6], backend='native'))


def test_other_devices_are_refused_with_the_reason():
    assert native.refusal(torch.empty(1, device='meta')) == 'it has kernels for cpu and cuda, got tensors on meta'


@pytest.mark.parametrize(
    ('archs', 'capability', 'fits'),
    [
        (['9.0'], (9, 0), True),
        (['8.0'], (8, 6), True),
        (['8.6'], (8, 0), False),
        (['8.0'], (9, 0), False),
        (['8.0+PTX'], (9, 0), True),
        (['7.5', '9.0a'], (9, 0), True),
        (['9.0a'], (9, 3), False),
        (['8.0', '12.1+PTX'], (9, 0), False),
        (['Hopper'], (7, 0), True),  # for torch to identify
    ],
)
def test_gpus_that_the_kernels_were_not_compiled_for(archs, capability, fits):
    reason = native.unfit(archs, capability)
    if fits:
        assert reason is None
    else:
        gpu = '{}.{}'.format(*capability)
        assert reason.startswith(
            f'it was compiled for GPUs of {" ".join(archs)}, and this one is of {gpu}; add {gpu} to its TORCH_'
        )
        assert reason.endswith(f'{native.REMEDY}TORCH_CUDA_ARCH_LIST={gpu} {native.rebuild()}')


class TestLoading:
    """Every way in which a library can be missing or unusable gives a reason in one line, and no crash."""

    @staticmethod
    def record(folder, **info):
        known = {'built': True, 'reason': None, 'torch': torch.__version__, 'compiler': 'g++ 12', 'flags': []}
        (folder / '_build.json').write_text(json.dumps(known | info))

    @pytest.fixture(autouse=True)
    def _nothing_loaded_yet(self, monkeypatch):
        monkeypatch.setattr(native, '_loaded', lambda *_: False)

    def test_a_library_of_older_sources(self, tmp_path, monkeypatch):
        """It lacks an operator, which is detected before its first use."""
        self.record(tmp_path)
        library = tmp_path / '_C.so'
        library.write_bytes(b'')
        opened = []
        monkeypatch.setattr(torch.ops, 'load_library', opened.append)
        assert native.load(tmp_path).startswith(
            f'it was compiled from older sources of mmsparx{native.REMEDY}pip install'
        )
        assert opened == [library]
        found = iter([False, True])
        monkeypatch.setattr(native, '_loaded', lambda *_: next(found))
        assert native.load(tmp_path) is None

    def test_another_copy_has_loaded_its_own(self, tmp_path, monkeypatch):
        self.record(tmp_path)
        monkeypatch.setattr(native, '_loaded', lambda *_: True)
        assert 'another copy of mmsparx in this process' in native.load(tmp_path)

    @pytest.mark.parametrize('content', ['', '{"built": tr', '[]', '{}', '{"built": false, "torch": null}'])
    def test_a_damaged_record(self, content, tmp_path):
        (tmp_path / '_build.json').write_text(content)
        assert '_build.json is damaged' in native.load(tmp_path)

    def test_without_a_record(self, tmp_path):
        assert 'this copy of mmsparx was not installed' in native.load(tmp_path)

    def test_not_built(self, tmp_path):
        self.record(tmp_path, built=False, reason='no C++ compiler was found')
        found = f'it was not compiled: no C++ compiler was found{native.REMEDY}{native.rebuild(tmp_path)}'
        assert native.load(tmp_path) == found

    @pytest.mark.parametrize('version', ['2.3.1', '1.13.0+cu117', '20.1.0'])
    def test_another_torch(self, version, tmp_path):
        self.record(tmp_path, torch=version)
        (tmp_path / '_C.so').write_bytes(b'never to be opened')
        reason = native.load(tmp_path)
        assert f'compiled for torch {version}, and this is torch {torch.__version__}' in reason

    def test_a_library_for_several_versions(self, tmp_path):
        """It loads in every torch from the oldest on, whatever it was compiled against."""
        for oldest in ('2.4', torch.__version__):
            self.record(tmp_path, torch='99.1.0', torch_from=oldest)
            assert native.load(tmp_path).startswith('expected one library _C*.so')

    @pytest.mark.parametrize('oldest', ['20.0', '2.99'])
    def test_a_library_for_newer_versions(self, oldest, tmp_path):
        self.record(tmp_path, torch_from=oldest)
        (tmp_path / '_C.so').write_bytes(b'never to be opened')
        reason = native.load(tmp_path)
        assert f'it was compiled for torch {oldest} and later, and this is torch {torch.__version__}' in reason

    def test_library_lost(self, tmp_path):
        self.record(tmp_path)
        assert 'expected one library _C*.so' in native.load(tmp_path)
        assert 'found none' in native.load(tmp_path)

    def test_broken_library(self, tmp_path):
        self.record(tmp_path)
        (tmp_path / '_C.so').write_bytes(b'not a library')
        assert 'its library cannot be loaded' in native.load(tmp_path)

    @pytest.mark.parametrize(
        ('origin', 'source'),
        [
            ({'url': 'https://host/mmsparx-0.1.0.tar.gz'}, 'https://host/mmsparx-0.1.0.tar.gz'),
            (
                {'url': 'https://host/r.git', 'vcs_info': {'vcs': 'git', 'commit_id': '1a2b'}},
                'git+https://host/r.git@1a2b',
            ),
            ({'url': 'file:///gone/mmsparx-0.1.0.tar.gz'}, '.'),
            ({'url': 'https://host/mmsparx-0.1.0-cp310-abi3-linux_x86_64.whl'}, '.'),
            ({}, '.'),
        ],
    )
    def test_the_source_of_a_rebuild(self, origin, source, tmp_path):
        """pip has recorded the source; `test_packaging` runs the commands."""
        metadata = tmp_path / 'mmsparx-0.1.0.dist-info'
        metadata.mkdir()
        (metadata / 'METADATA').write_text('Name: mmsparx\nVersion: 0.1.0\n')
        (metadata / 'direct_url.json').write_text(json.dumps(origin))
        assert native.rebuild(tmp_path / 'mmsparx').split('  #')[0].split()[-1] == source

    def test_a_record_of_this_build(self):
        info = native.build_info()
        if info:
            assert {'built', 'reason', 'torch', 'compiler', 'flags'} <= info.keys()

    def test_a_lost_library_warns_at_import(self, tmp_path):
        """A copy of the package whose record names another torch warns, and the pure-torch scan works."""
        package = Path(native.__file__).parents[1]
        copy = tmp_path / 'mmsparx'
        for source in [package / '__init__.py', package / 'version.py', *(package / 'ops').rglob('*.py')]:
            target = copy / source.relative_to(package)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(source.read_bytes())
        self.record(copy, torch='1.0.0')
        code = (
            f'import sys; sys.path.insert(0, {str(tmp_path)!r}); import torch; from mmsparx.ops import selective_scan; '
            'x = torch.ones(1, 1, 2); print(selective_scan(x, x, -torch.ones(1, 1), x, x).shape)'
        )
        done = subprocess.run([sys.executable, '-I', '-c', code], capture_output=True, text=True, check=True)
        assert 'torch.Size([1, 1, 2])' in done.stdout
        warning = "the compiled operators ('native') are not used: it was compiled for torch 1.0.0"
        assert done.stderr.count(warning) == 1
        assert "runs on the slower 'reference' backend" in done.stderr


@needs_native
@pytest.mark.skipif(not shutil.which('nm'), reason='needs nm, of binutils')
def test_a_library_for_several_versions_of_torch_has_nothing_of_its_cpp_interface():
    if not native.build_info()['torch_from']:
        pytest.skip('it is compiled for one version of torch')
    (library,) = Path(native.__file__).parents[1].glob('_C*.so')
    done = subprocess.run(['nm', '-D', '--undefined-only', library], capture_output=True, text=True, check=True)
    symbols = [line.split()[-1] for line in done.stdout.splitlines()]
    assert [name for name in symbols if name.startswith('aoti_torch_')]
    assert not [name for name in symbols if re.match(r'_Z\w*?(2at|3c10|5torch)', name)]


def test_the_chunk_is_the_references():
    header = Path(__file__).parents[2] / 'csrc' / 'selective_scan' / 'selective_scan.h'
    if not header.is_file():
        pytest.skip('needs the repository')
    assert f'constexpr int64_t kChunk = {reference.CHUNK};' in header.read_text()
