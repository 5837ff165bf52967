"""The check of the scan's numbers: what it lets pass, and what not."""

import dataclasses

import pytest
import torch

from mmsparx.doctor import backends as doctor
from mmsparx.ops.selective_scan import backends, cross, native, reference

pytestmark = pytest.mark.filterwarnings('ignore:selective scan runs on the slower')


@pytest.fixture(autouse=True)
def _told_anew(monkeypatch):
    """What is said once is not used up for other tests."""
    monkeypatch.setattr(backends, '_told', set())


@pytest.fixture
def replace(monkeypatch):
    """Puts functions in place of those of a new best backend, 'broken', which is else the reference."""

    def replace(**functions):
        broken = backends.Backend(
            'broken', **({'forward': reference.forward, 'backward': reference.backward} | functions)
        )
        monkeypatch.setattr(backends, 'BACKENDS', [broken, *backends.BACKENDS])
        monkeypatch.setattr(doctor, 'BACKENDS', backends.BACKENDS)

    return replace


def off_by(factor, index):
    """The reference's backward with one gradient that is off."""

    def backward(*arguments):
        gradients = list(reference.backward(*arguments))
        gradients[index] = gradients[index] * factor
        return tuple(gradients)

    return backward


def rows():
    return doctor.describe()['backends']


def test_every_implementation_of_this_machine_passes():
    runnable = [row for row in rows() if row['missing'] is None]
    assert {row['name'] for row in runnable} >= {'reference'}
    for row in runnable:
        told = doctor.check(row['name'], row['device'], row['instruction_set'] or '')
        assert told.startswith('relative error ')
        assert f'tolerance {doctor.TOLERANCE:.0e}' in told


def test_the_rows_of_this_machine():
    found = rows()
    assert list(dict.fromkeys(row['name'] for row in found)) == list(backends.available_backends())
    on_cpu = [row for row in found if row['device'] == 'cpu']
    assert tuple(row['instruction_set'] for row in on_cpu if row['name'] == 'native') == native.instruction_sets()
    assert sum(row['in_use'] for row in on_cpu) == 1


def test_the_rows_of_two_devices():
    found = [(row['name'], row['device'], row['missing']) for row in doctor._rows(['cpu', 'meta'])]
    assert {('reference', 'cpu', None), ('reference', 'meta', None)} <= set(found)
    if native.missing() is None:
        refused = 'it has kernels for cpu and cuda, got tensors on meta'
        assert {('native', 'cpu', None), ('native', 'meta', refused)} <= set(found)


def test_gpus_that_torch_cannot_use_are_none(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 1)
    described = doctor.describe()
    assert described['gpus'] == []
    assert {row['device'] for row in described['backends']} <= {'cpu', None}


@pytest.mark.parametrize('name', ['auto', 'reference'])
def test_what_is_in_use_follows_the_environment(monkeypatch, name):
    monkeypatch.setenv(backends.VARIABLE, name)
    used = [row['name'] for row in rows() if row['in_use'] and row['device'] == 'cpu']
    assert used == [backends.choose('auto', torch.zeros(1)).name]


def test_nothing_is_in_use_where_the_environment_names_nothing_known(monkeypatch):
    monkeypatch.setenv(backends.VARIABLE, 'nonsense')
    assert [row['in_use'] for row in rows()] == [False] * len(rows())


def test_a_backend_that_is_missing_or_refuses(replace):
    replace(missing=lambda: 'no licence')
    expected = dict(name='broken', device=None, instruction_set=None, in_use=False, missing='no licence', lost=False)
    assert rows()[0] == expected
    replace(refusal=lambda u: f'not on {u.device.type}')
    assert rows()[0]['missing'] == 'not on cpu'
    assert rows()[0]['device'] == 'cpu'


def test_compiled_kernels_that_are_lost(monkeypatch):
    compiled = dataclasses.replace(backends.BACKENDS[0], name='native', missing=lambda: 'another torch; mend it')
    monkeypatch.setattr(doctor, 'BACKENDS', [compiled])
    for built in (True, False):
        monkeypatch.setattr(native, 'build_info', lambda built=built: {'built': built})
        assert [row['lost'] for row in rows()] == [built]


def test_an_output_that_is_off(replace):
    replace(forward=lambda *arguments: (reference.forward(*arguments)[0] * 1.0001, reference.forward(*arguments)[1]))
    with pytest.raises(ArithmeticError, match=r'relative error 1.0e-04, tolerance 1e-05 \(output of '):
        doctor.check('broken', 'cpu')


@pytest.mark.parametrize(('index', 'name'), list(enumerate(['u', 'delta', 'A', 'B', 'C', 'D', 'delta_bias'])))
def test_any_gradient_that_is_off(replace, index, name):
    replace(backward=off_by(1.001, index))
    # In a map's scan u and delta are x, step and weight.
    with pytest.raises(
        ArithmeticError, match=rf'relative error \d.\de-0[34], .*gradient of ({name}|x|step|weight) of '
    ):
        doctor.check('broken', 'cpu')


def test_the_scan_of_a_map_that_is_off_alone(replace):
    def cross_forward(*arguments):
        out, states = cross.forward(reference.forward, *arguments)
        return out * 1.1, states

    replace(cross_forward=cross_forward)
    with pytest.raises(ArithmeticError, match=r'\(output of cross_selective_scan'):
        doctor.check('broken', 'cpu')


def test_not_a_number(replace):
    replace(forward=lambda *arguments: tuple(x * torch.nan for x in reference.forward(*arguments)))
    with pytest.raises(ArithmeticError, match='relative error nan'):
        doctor.check('broken', 'cpu')
