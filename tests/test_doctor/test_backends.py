"""The check of the scan's numbers: results that pass, and results that fail."""

import dataclasses

import pytest
import torch

from mmsparx.doctor import backends as doctor
from mmsparx.ops import backends as common
from mmsparx.ops import native
from mmsparx.ops.selective_scan import backends, cross, reference

pytestmark = pytest.mark.filterwarnings('ignore:selective scan runs on the slower')


@pytest.fixture
def replace(monkeypatch):
    """Replaces functions of a new best backend, 'broken', which is the reference otherwise."""

    def replace(**functions):
        broken = backends.Backend(
            'broken', **({'forward': reference.forward, 'backward': reference.backward} | functions)
        )
        monkeypatch.setattr(backends, 'BACKENDS', [broken, *backends.BACKENDS])
        monkeypatch.setattr(doctor, 'BACKENDS', backends.BACKENDS)

    monkeypatch.setattr(common, '_warned', set())
    return replace


def rows(device='cpu'):
    return list(doctor._rows(device))


def test_the_rows_of_this_machine():
    found = [row for row in rows() if row['missing'] is None]
    assert tuple(row['instruction_set'] for row in found if row['name'] == 'native') == native.instruction_sets()
    assert [row['name'] for row in found if row['in_use']] == [backends.choose('auto', torch.zeros(1)).name]
    for row in found:
        message = doctor.check(row['name'], row['device'], row['instruction_set'] or '')
        assert message.startswith('relative error ')
        assert f'tolerance {doctor.TOLERANCE:.0e}' in message


def test_gpus_that_torch_cannot_use_are_not_listed(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 1)
    described = doctor.describe()
    assert described['gpus'] == []
    assert {row['device'] for row in described['backends']} == {'cpu'}


def test_nothing_is_in_use_where_the_environment_names_nothing_known(monkeypatch):
    monkeypatch.setenv(backends.VARIABLE, 'nonsense')
    assert not any(row['in_use'] for row in rows())


def test_a_backend_that_refuses(replace):
    replace(refusal=lambda u: f'not on {u.device.type}')
    assert (rows()[0]['missing'], rows('meta')[0]['missing']) == ('not on cpu', 'not on meta')


@pytest.mark.parametrize('built', [True, False])
def test_compiled_kernels_that_are_missing(monkeypatch, built):
    """The command that compiles them is a field of its own; kernels of an earlier build are lost."""
    missing = f'another torch{native.REMEDY}pip install .'
    compiled = dataclasses.replace(backends.BACKENDS[0], name='native', missing=lambda: missing)
    monkeypatch.setattr(doctor, 'BACKENDS', [compiled])
    monkeypatch.setattr(native, 'build_info', lambda: {'built': built})
    (row,) = rows()
    assert (row['missing'], row['fix'], row['lost']) == ('another torch', 'pip install .', built)


def off_by(factor, index=None):
    """The reference's forward, or one gradient of its backward, times a factor."""

    def run(*arguments):
        if index is None:
            return tuple(factor * x for x in reference.forward(*arguments))
        gradients = list(reference.backward(*arguments))
        gradients[index] = gradients[index] * factor
        return tuple(gradients)

    return run


def cross_off(*arguments):
    out, states = cross.forward(reference.forward, *arguments)
    return out * 1.1, states


# In a cross scan, x, step and weight take the place of u and delta.
@pytest.mark.parametrize(
    ('functions', 'found'),
    [
        (dict(forward=off_by(1.0001)), r'error 1.0e-04, tolerance 1e-05 \(output of '),
        (dict(forward=off_by(torch.nan)), 'error nan'),
        (dict(cross_forward=cross_off), r'\(output of cross_selective_scan'),
        *(
            (dict(backward=off_by(1.001, i)), rf'error \d.\de-0[34], .*gradient of ({name}|x|step|weight) of ')
            for i, name in enumerate(['u', 'delta', 'A', 'B', 'C', 'D', 'delta_bias'])
        ),
    ],
)
def test_any_result_that_is_off(replace, functions, found):
    replace(**functions)
    with pytest.raises(ArithmeticError, match=f'relative .*{found}'):
        doctor.check('broken', 'cpu')
