"""The benchmark of cross scans: its contenders compute what the network computes, and its figures are correct."""

import json
from dataclasses import replace

import pytest
import torch
from helpers import naive_scan, relative_error

pytest.importorskip('mmengine')
pytest.importorskip('timm')
from benchmarks import command_line, cross_selective_scan, mamba, report, scans
from benchmarks.cross_selective_scan import CROSS_SCAN, contenders, make_inputs, plain_backends, stage_shape
from benchmarks.report import Comparison, Report
from mmsparx.analysis.timing import Protocol, Timing
from mmsparx.layers.mixers import ss2d
from mmsparx.models import SparXMamba
from mmsparx.ops import cross_merge, cross_scan, native
from mmsparx.ops import cross_selective_scan as scan
from mmsparx.ops.selective_scan import backends, reference

CPU, GPU = torch.device('cpu'), torch.device('cuda')
SHORT = Protocol(1e-3, 3, 0)


def by_hand(x, step, weight, A, B, C, D, delta_bias):
    delta = torch.einsum('kdr,bkrl->bkdl', weight.unflatten(0, (4, -1)), step).flatten(1, 2)
    out = naive_scan(cross_scan(x).flatten(1, 2), delta, A, B, C, D, None, delta_bias, True)[0]
    return cross_merge(out.unflatten(1, (4, -1)), *x.shape[2:])


def gradients(function, inputs):
    leaves = [x.detach().requires_grad_() for x in inputs.values()]
    out = function(**dict(zip(inputs, leaves, strict=True)))
    return torch.autograd.grad(out, leaves, out.detach())


def planted(monkeypatch):
    """A backend whose kernels for maps cannot run, but whose plain scan can."""

    def fail(*_):
        raise RuntimeError('kernels for maps')

    added = backends.Backend('planted', reference.forward, reference.backward, cross_forward=fail, cross_backward=fail)
    monkeypatch.setattr(backends, 'BACKENDS', [*backends.BACKENDS, added])


def test_every_contender_computes_the_scan_of_maps(monkeypatch):
    planted(monkeypatch)
    inputs = make_inputs(2, 24, (5, 3), 2, CPU)
    exact = {name: x.double() for name, x in inputs.items()}
    truth = by_hand(**exact)
    slopes = gradients(by_hand, exact)
    known = contenders(CPU)
    assert {'reference', 'planted', 'planted-plain'} <= set(known)
    del known['planted']
    with plain_backends():
        for name, contender in known.items():
            (out,) = scans.call_of(contender, inputs, 'forward')()
            assert relative_error(out, truth) < 1e-6, name
            for which in ('backward', 'forward+backward'):
                found = scans.call_of(contender, inputs, which)()
                for key, ours, true in zip(inputs, found, slopes, strict=True):
                    assert relative_error(ours, true) < 1e-5, (name, which, key)


def test_plain_is_without_the_kernels_for_maps(monkeypatch):
    planted(monkeypatch)
    before = list(backends.BACKENDS)
    names = ['reference', 'planted', 'planted-plain']
    result = scans.compare(CROSS_SCAN, names, make_inputs(1, 8, (3, 2), 1, CPU), 'backward', SHORT)
    assert result.timings['planted'].skipped == 'RuntimeError: kernels for maps'
    assert list(result.measured) == ['reference', 'planted-plain']
    assert all(timing.facts['relative_error'] < 1e-5 for timing in result.measured.values())
    assert before == backends.BACKENDS
    with pytest.raises(ValueError, match="unknown selective-scan backend 'planted-plain'"):
        scan(*make_inputs(1, 8, (3, 2), 1, CPU).values(), backend='planted-plain')


def test_auto_takes_no_added_backend(monkeypatch):
    monkeypatch.delenv(backends.VARIABLE, raising=False)
    usual = backends.choose('auto', torch.empty(1))
    with plain_backends():
        assert backends.choose('auto', torch.empty(1)) is usual


def test_inputs_are_those_of_the_network(monkeypatch):
    """Shapes, types and layout in memory, at every stage."""
    calls = []

    def record(x, step, weight, A, B, C, **others):
        tensors = dict(x=x, step=step, weight=weight, A=A, B=B, C=C, D=others['D'], delta_bias=others['delta_bias'])
        calls.append({name: (tensor.shape, tensor.stride(), tensor.dtype) for name, tensor in tensors.items()})
        return x

    monkeypatch.setattr(ss2d, 'cross_selective_scan', record)
    backbone = SparXMamba('tiny')
    backbone(torch.zeros(2, 3, 70, 40))
    seen = [list(group) for group in dict.fromkeys(tuple(call.items()) for call in calls)]
    assert len(seen) == 4
    for stage, found in enumerate(seen, 1):
        case = {'batch': 2, 'type': 'float32', **stage_shape('tiny', (70, 40), stage)}
        inputs = CROSS_SCAN.make_inputs(case, CPU)
        assert [(name, (x.shape, x.stride(), x.dtype)) for name, x in inputs.items()] == found
        assert scans.elements_of(inputs) == case['batch'] * case['channels'] * case['length']


@pytest.mark.parametrize('which', ['forward', 'backward'])
@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_the_bytes_are_those_of_the_tensors(which, dtype):
    case = {'batch': 2, 'channels': 24, 'length': 15, 'map': '5x3', 'rank': 3, 'type': dtype, 'pass': which}
    inputs = CROSS_SCAN.make_inputs(case, CPU)
    x, projected = inputs['x'], [inputs[name] for name in ('step', 'B', 'C')]
    moved = [x, *projected, x]  # read and written
    if which == 'backward':
        moved = [x, x, *projected, x, *projected]
    assert cross_selective_scan.least_bytes(case) == sum(tensor.nbytes for tensor in moved)


def test_both_passes_move_the_sum_of_their_bytes():
    case = {'batch': 2, 'channels': 24, 'length': 15, 'map': '5x3', 'rank': 3, 'type': 'float32'}
    each = [cross_selective_scan.least_bytes({**case, 'pass': which}) for which in scans.PASSES]
    assert each[0] + each[1] == each[2]


def test_contenders_are_those_that_serve_the_device(monkeypatch):
    monkeypatch.setattr(native, 'instruction_sets', lambda: ('avx512', 'avx2'))
    monkeypatch.setattr(backends, 'BACKENDS', [replace(one, missing=lambda: None) for one in backends.BACKENDS])
    vectors = ['native-avx512', 'native-avx512-plain', 'native-avx2', 'native-avx2-plain', 'reference']
    assert list(contenders(CPU)) == vectors
    on_gpu = list(contenders(GPU))
    assert [on_gpu[0], on_gpu[1], on_gpu[-1]] == ['native', 'native-plain', 'mamba-ssm-plain']
    assert {'triton', 'reference'} < set(on_gpu)
    large = 10**9
    assert cross_selective_scan.default_names('tiny', (224, 224), 1, large) == vectors
    assert cross_selective_scan.default_names('base', (224, 224), 128, large) == vectors[:2]
    assert cross_selective_scan.default_names('base', (224, 224), 1, 1) == [*vectors[:2], 'reference']
    few = cross_selective_scan.default_names('base', (224, 224), 128, large, GPU)
    assert few == [name for name in on_gpu if name != 'reference']


def test_mamba_ssm_says_why_it_is_not_there(monkeypatch):
    monkeypatch.setattr(mamba, 'DEVICES', ('cpu',))
    monkeypatch.setattr(mamba, 'EXTENSION', 'no_such_extension')
    inputs = make_inputs(1, 8, (3, 2), 1, CPU)
    result = scans.compare(CROSS_SCAN, ['reference', 'mamba-ssm-plain'], inputs, 'forward', SHORT)
    assert 'mamba-ssm is not installed' in result.timings['mamba-ssm-plain'].skipped


def test_the_command(tmp_path, monkeypatch, capsys):
    planted(monkeypatch)
    monkeypatch.setattr(command_line, 'Protocol', lambda seconds, samples: Protocol(seconds, samples, 0))
    arguments = ['--networks', 'tiny', '--images', '32x48', '--batches', '2', '--stages', '3', '--threads', '1']
    arguments += ['--seconds', '0.001', '--samples', '3', '--contenders', 'reference', 'planted', 'planted-plain']
    path = cross_selective_scan.main([*arguments, '--out', str(tmp_path), '--dtype', 'bfloat16'])
    result = Report.load(path)
    assert (path.name, result.benchmark) == ('cross_selective_scan_1_thread_bfloat16.json', 'cross_selective_scan')
    assert [comparison.case['pass'] for comparison in result.comparisons] == ['forward', 'forward+backward']
    shape = {'channels': 4 * 640, 'length': 6, 'map': '2x3', 'rank': 20}
    for comparison in result.comparisons:
        assert shape.items() <= comparison.case.items()
        assert list(comparison.measured) == ['reference', 'planted-plain']
        for timing in comparison.measured.values():
            assert len(timing.seconds) == 3
            assert timing.facts['relative_error'] < 2e-2
    assert path.with_suffix('.png').stat().st_size > 10_000
    tables = path.with_suffix('.md').read_text()
    assert tables in capsys.readouterr().out
    assert '## Best backend, forward: ns per element' in tables
    # The backends that the benchmark adds are not backends of the package.
    assert not any('plain' in name for name in json.loads(path.read_text())['environment']['scan_backends'])


def test_the_gain_is_that_of_the_same_backend():
    case = {'network': 'tiny', 'image': '224x224', 'batch': 1, 'stage': 1, 'map': '56x56', 'rank': 6, 'type': 'float32'}
    case |= {'channels': 768, 'length': 3136, 'pass': 'forward'}
    seconds = {'native': 2.0, 'native-plain': 5.0, 'triton': 3.0, 'reference': 9.0}
    copy = Timing([1.0] * 3, facts={'bytes': 2 * cross_selective_scan.least_bytes(case)})
    comparison = Comparison(case, {name: Timing([value] * 3) for name, value in seconds.items()}, copy)
    environment = report.environment(CPU)
    tables = CROSS_SCAN.tables(Report('cross_selective_scan', 'python', {'threads': 1}, environment, [comparison]))
    _, _, gain = tables.partition('## Best backend, forward: times as fast as by its plain scan')
    assert [cell.strip() for cell in gain.splitlines()[-1].split('|')[1:-1]] == ['tiny', '224x224', '1', '2.5']
    _, _, share = tables.partition('## Best backend, forward: % of the speed of a copy')
    assert [cell.strip() for cell in share.splitlines()[4].split('|')[1:-1]] == ['tiny', '224x224', '1', '25']
