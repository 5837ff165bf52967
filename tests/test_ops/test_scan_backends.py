"""The choice of the selective scan's implementation, and messages about it."""

import importlib.util
import os
import subprocess
import sys
import warnings
from types import SimpleNamespace

import pytest
import torch

from mmsparx.ops import available_backends, selective_scan, triton_runtime
from mmsparx.ops import backends as common
from mmsparx.ops.selective_scan import backends, reference
from mmsparx.ops.selective_scan.backends import BACKENDS, VARIABLE, Backend


@pytest.fixture(autouse=True)
def _fresh(monkeypatch):
    """Unset the environment variable, and forget earlier warnings."""
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr(common, '_warned', set())


class Planted(Backend):
    """A backend ahead of all others, which counts its runs and is otherwise the reference."""

    def __init__(self, name='planted', missing=None, refusal=None, devices=None):
        self.__dict__['runs'] = []

        def forward(*arguments):
            self.runs.append('forward')
            return reference.forward(*arguments)

        def backward(*arguments):
            self.runs.append('backward')
            return reference.backward(*arguments)

        super().__init__(name, forward, backward, lambda: missing, refusal or (lambda *_: None), devices=devices)


@pytest.fixture
def plant(monkeypatch):
    def plant(*args, **kwargs):
        planted = Planted(*args, **kwargs)
        monkeypatch.setattr(backends, 'BACKENDS', [planted, BACKENDS[-1]])
        return planted

    return plant


def run(length=5, **options):
    """One scan, forward and backward."""
    u = torch.randn(1, 2, length, requires_grad=True)
    B = torch.randn(1, 1, length)
    selective_scan(u, torch.rand(1, 2, length), -torch.rand(2, 1), B, B, **options).sum().backward()


class TestChoice:
    def test_the_reference_is_last_and_runs_everywhere(self):
        assert list(available_backends())[-1] == 'reference'
        assert available_backends()['reference'] == 'available'

    def test_the_first_that_can_run(self, plant):
        planted = plant()
        with warnings.catch_warnings():
            warnings.simplefilter('error')
            run()
        assert planted.runs == ['forward', 'backward']

    def test_by_name(self, plant):
        planted = plant()
        run(backend='reference')
        assert planted.runs == []
        run(backend='planted')
        assert planted.runs == ['forward', 'backward']

    def test_by_environment(self, plant, monkeypatch):
        planted = plant()
        monkeypatch.setenv(VARIABLE, 'reference')
        run()
        assert planted.runs == []
        monkeypatch.setenv(VARIABLE, 'planted')
        run()
        assert planted.runs == ['forward', 'backward']

    @pytest.mark.parametrize('value', ['', 'auto'])
    def test_environment_that_leaves_it_open(self, value, plant, monkeypatch):
        planted = plant()
        monkeypatch.setenv(VARIABLE, value)
        run()
        assert planted.runs == ['forward', 'backward']

    def test_a_name_outranks_the_environment(self, plant, monkeypatch):
        planted = plant()
        monkeypatch.setenv(VARIABLE, 'planted')
        run(backend='reference')
        assert planted.runs == []

    def test_the_environment_is_read_in_a_fresh_process(self):
        code = (
            'import torch; from mmsparx.ops import selective_scan; x = torch.ones(1, 1, 2); '
            'selective_scan(x, x, -torch.ones(1, 1), x, x)'
        )
        result = subprocess.run(
            [sys.executable, '-c', code], env={VARIABLE: 'nonesuch'}, capture_output=True, text=True, check=False
        )
        assert result.returncode == 1
        assert f"unknown selective-scan backend 'nonesuch', asked for by the environment variable {VARIABLE}" in (
            result.stderr
        )

    def test_one_meant_for_other_devices_is_passed_over_in_silence(self, plant):
        planted = plant(devices=('cuda',))
        for _ in range(2):
            with warnings.catch_warnings():
                warnings.simplefilter('error')
                run()
            assert planted.runs == []
            planted = plant(devices=('cuda',), missing='it is not installed')

    def test_one_meant_for_other_devices_runs_by_name(self, plant, monkeypatch):
        planted = plant(devices=('cuda',))
        run(backend='planted')
        assert planted.runs == ['forward', 'backward']
        monkeypatch.setenv(VARIABLE, 'planted')
        run()
        assert planted.runs == 2 * ['forward', 'backward']

    @pytest.mark.filterwarnings('ignore:selective scan runs on the slower')
    def test_passing_over_one_meant_for_this_device_warns(self, plant):
        on_gpu = SimpleNamespace(device=torch.device('cuda'))
        planted = plant(devices=('cuda',))
        assert backends.choose('auto', on_gpu) is planted
        plant(devices=('cuda',), missing='it is not installed')
        with pytest.warns(UserWarning, match="slower 'reference' backend, because 'planted' cannot: it is not install"):
            assert backends.choose('auto', on_gpu).name == 'reference'

    def test_refusals_see_the_inputs(self, plant):
        planted = plant(refusal=lambda u: 'too long' if u.shape[2] > 8 else None)
        run(length=8)
        with pytest.warns(UserWarning, match='too long'):
            run(length=9)
        assert planted.runs == ['forward', 'backward']


class TestMessages:
    @pytest.mark.parametrize('name', ['triton2', '', 'AUTO'])
    def test_unknown_name(self, name):
        known = ', '.join(['auto', *available_backends()])
        with pytest.raises(ValueError, match=f"unknown selective-scan backend '{name}'.*known ones: {known}$"):
            run(backend=name)

    def test_unknown_name_in_the_environment(self, monkeypatch):
        monkeypatch.setenv(VARIABLE, 'nonesuch')
        with pytest.raises(ValueError, match=f"'nonesuch', asked for by the environment variable {VARIABLE}; known"):
            run()

    def test_passing_over_an_installed_one_warns_once(self, plant):
        planted = plant(refusal=lambda *_: 'it has a headache')
        with pytest.warns(UserWarning, match="slower 'reference' backend, because 'planted' cannot: it has a headache"):
            run()
        with warnings.catch_warnings():
            warnings.simplefilter('error')
            run()
            run(length=7)
        assert planted.runs == []

    def test_passing_over_a_missing_one_warns_once_with_the_reason(self, plant):
        plant(missing='it was not compiled: no compiler')
        with pytest.warns(
            UserWarning, match="slower 'reference' backend, because 'planted' cannot: it was not compiled"
        ):
            run()
        with warnings.catch_warnings():
            warnings.simplefilter('error')
            run()
        assert available_backends()['planted'] == 'it was not compiled: no compiler'

    def test_the_choice_is_explained(self, plant, monkeypatch):
        u = torch.zeros(1)
        plant(missing='it was not compiled')
        monkeypatch.setattr(backends, 'BACKENDS', [backends.BACKENDS[0], backends.BACKENDS[-1]])
        with pytest.warns(UserWarning, match='slower'):
            assert backends.explain(u) == 'reference on cpu, planted cannot run: it was not compiled'
        monkeypatch.setenv(VARIABLE, 'reference')
        assert backends.explain(u) == f'reference on cpu, as the environment variable {VARIABLE} says'
        monkeypatch.setenv(VARIABLE, 'auto')
        monkeypatch.setattr(backends, 'BACKENDS', backends.BACKENDS[-1:])
        assert backends.explain(u) == 'reference on cpu, the best there is for it'

    def test_choosing_the_slower_one_does_not_warn(self, plant, monkeypatch):
        plant(missing='it was not compiled')
        with warnings.catch_warnings():
            warnings.simplefilter('error')
            run(backend='reference')
            monkeypatch.setenv(VARIABLE, 'reference')
            run()

    @pytest.mark.parametrize(
        'why',
        [{'missing': 'it is not compiled'}, {'refusal': lambda *_: 'it is not compiled'}],
        ids=['missing', 'refusal'],
    )
    def test_a_forced_one_that_cannot_run(self, why, plant, monkeypatch):
        plant(**why)
        with pytest.raises(RuntimeError, match="'planted', asked for by backend=, cannot run: it is not compiled"):
            run(backend='planted')
        monkeypatch.setenv(VARIABLE, 'planted')
        with pytest.raises(RuntimeError, match=f"'planted', asked for by the environment variable {VARIABLE}, cannot"):
            run()

    def test_none_that_can_run(self, monkeypatch):
        monkeypatch.setattr(backends, 'BACKENDS', [Planted(refusal=lambda *_: 'it has a headache')])
        with pytest.raises(RuntimeError, match=r'no selective-scan backend can run on these inputs.*headache'):
            run()


def test_a_compiled_graph_chooses_when_it_runs(plant, monkeypatch):
    monkeypatch.setattr(backends, 'BACKENDS', BACKENDS[-1:])

    def scan(u):
        return selective_scan(u, u, -torch.ones(2, 1), u[:, :1], u[:, 1:])

    compiled = torch.compile(scan, fullgraph=True, backend='aot_eager')
    u = torch.rand(1, 2, 5)
    expected = compiled(u)
    planted = plant()
    assert torch.equal(compiled(u), expected)
    assert planted.runs == ['forward']


class TestTriton:
    """The choice of the Triton kernels; the kernels themselves are in test_triton.py."""

    ON_GPU = SimpleNamespace(device=torch.device('cuda'))

    @pytest.fixture
    def without_triton(self, monkeypatch):
        found = importlib.util.find_spec
        monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None if name == 'triton' else found(name))
        triton_runtime.missing.cache_clear()
        yield
        triton_runtime.missing.cache_clear()

    @pytest.fixture
    def unusable(self, monkeypatch):
        """Makes Triton fail, or work, on a GPU that need not be there."""
        return lambda reason: monkeypatch.setattr(triton_runtime, 'unusable', lambda: reason)

    def test_between_the_compiled_kernels_and_the_reference(self):
        assert list(available_backends()) == ['native', 'triton', 'reference']

    def test_first_on_a_gpu_without_compiled_kernels(self, monkeypatch, unusable):
        if triton_runtime.missing():
            pytest.skip(triton_runtime.missing())
        native = Planted('native', missing='it was not compiled')
        monkeypatch.setattr(backends, 'BACKENDS', [native, *BACKENDS[1:]])
        unusable(None)
        with pytest.warns(UserWarning, match="slower 'triton' backend, because 'native' cannot: it was not compiled"):
            assert backends.choose('auto', self.ON_GPU).name == 'triton'
        unusable('triton does not work here (RuntimeError: no C compiler)')
        with pytest.warns(UserWarning, match="'reference' backend, because 'triton' cannot: triton does not work here"):
            assert backends.choose('auto', self.ON_GPU).name == 'reference'

    @pytest.mark.parametrize('interpreted', [True, False])
    def test_neither_chosen_nor_mentioned_on_a_cpu(self, interpreted, monkeypatch):
        monkeypatch.setattr(backends, 'BACKENDS', BACKENDS[1:])
        if interpreted:
            monkeypatch.setenv(triton_runtime.INTERPRET, '1')
            monkeypatch.setattr(triton_runtime, '_interpreted', lambda: True)
        with warnings.catch_warnings():
            warnings.simplefilter('error')
            assert backends.choose('auto', torch.zeros(1)).name == 'reference'

    def test_by_name_on_a_cpu(self, monkeypatch):
        if triton_runtime.missing():
            pytest.skip(triton_runtime.missing())
        monkeypatch.delenv(triton_runtime.INTERPRET, raising=False)
        with pytest.raises(
            RuntimeError,
            match="'triton', asked for by backend=, cannot run: it has kernels for cuda alone, got tensors on cpu; set "
            'TRITON_INTERPRET=1 before Python starts',
        ):
            run(backend='triton')
        monkeypatch.setenv(triton_runtime.INTERPRET, '1')
        monkeypatch.setattr(triton_runtime, '_interpreted', lambda: True)
        monkeypatch.setattr(triton_runtime, '_uninterpretable', lambda: None)
        assert triton_runtime.refusal(torch.zeros(1)) is None
        # The variable was set too late: Triton had read it before.
        monkeypatch.setattr(triton_runtime, '_interpreted', lambda: False)
        assert 'before Python starts' in triton_runtime.refusal(torch.zeros(1))

    def test_the_interpreter_runs_or_gives_a_reason(self):
        """The interpreter is unpatched, and in a process of its own, since Triton reads the variable once."""
        if triton_runtime.missing():
            pytest.skip(triton_runtime.missing())
        numpy = pytest.importorskip('numpy')
        code = 'import torch; from mmsparx.ops import triton_runtime; print(triton_runtime.refusal(torch.zeros(1)))'
        environment = os.environ | {triton_runtime.INTERPRET: '1'}
        said = subprocess.run([sys.executable, '-c', code], env=environment, capture_output=True, text=True, check=True)
        if tuple(map(int, numpy.__version__.split('.')[:2])) < (2, 4):
            assert said.stdout == 'None\n'
        else:
            assert f'interpreter does not work beside numpy {numpy.__version__} (' in said.stdout
            assert "pip install 'numpy<2.4'), or unset TRITON_INTERPRET" in said.stdout

    def test_other_devices(self):
        u = torch.empty(1, device='meta')
        assert triton_runtime.refusal(u) == 'it has kernels for cuda alone, got tensors on meta'

    @pytest.mark.usefixtures('without_triton')
    def test_not_installed(self):
        assert available_backends()['triton'].startswith('triton is not installed; pip install triton')
        with pytest.raises(RuntimeError, match="'triton', asked for by backend=, cannot run: triton is not installed"):
            run(backend='triton')
        with pytest.warns(UserWarning, match="'reference' backend, because 'triton' cannot: triton is not installed"):
            assert backends.choose('auto', self.ON_GPU).name == 'reference'

    @pytest.mark.parametrize('version', ['2.1.0', '3.1.0', '3.1.0+git5fe38ffd73'])
    def test_too_old(self, version, monkeypatch):
        triton = pytest.importorskip('triton')
        monkeypatch.setattr(triton, '__version__', version)
        reason = triton_runtime.unusable.__wrapped__()
        assert reason == f'it needs triton 3.2, and this is {version}; a newer torch brings a newer one'

    @pytest.mark.skipif(torch.cuda.is_available(), reason='there is a GPU')
    def test_why_it_fails_without_a_gpu(self):
        if triton_runtime.missing():
            pytest.skip(triton_runtime.missing())
        assert triton_runtime.unusable.__wrapped__().startswith(
            'triton does not work here (RuntimeError: 0 active drivers'
        )

    def test_is_imported_by_nothing_but_its_use(self):
        # torch's FLOP counter imports Triton itself, if it is installed.
        code = (
            'import sys, torch.utils.flop_counter; before = set(sys.modules); '
            'from mmsparx.ops import available_backends, selective_scan; '
            'x = torch.ones(1, 1, 2); selective_scan(x, x, -torch.ones(1, 1), x, x); available_backends(); '
            'print([x for x in set(sys.modules) - before if x.startswith("triton") or x.endswith("triton_kernels")])'
        )
        done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
        assert done.stdout == '[]\n'
