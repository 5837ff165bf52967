"""Figures that the benchmarks derive from a GPU's measurements; no GPU is used."""

from dataclasses import replace

import pytest
import torch

pytest.importorskip('mmengine')
pytest.importorskip('timm')
from benchmarks import network, peers, plot, report, scans, selective_scan
from benchmarks.report import Comparison, Report
from benchmarks.scan_tables import copy_speed
from mmsparx.analysis.timing import Copying, Protocol, Timing
from mmsparx.ops import native
from mmsparx.ops.selective_scan import backends

CPU, GPU = torch.device('cpu'), torch.device('cuda')
# Sizes of stage 1 of tiny at 224x224, batch 128, with one state and four directions.
ELEMENTS, SHARED = 128 * 768 * 3136, 128 * 4 * 3136
CASE = {'network': 'tiny', 'image': '224x224', 'batch': 128, 'stage': 1, 'channels': 768, 'length': 3136}


def case(which='forward', dtype='bfloat16'):
    return {**CASE, 'type': dtype, 'pass': which}


def a_report(*comparisons):
    return Report('selective_scan', 'python', {'threads': 1}, report.environment(CPU), list(comparisons))


def cells(tables, contender):
    """A contender's row in the first table of all contenders, by column."""
    rows = [[cell.strip() for cell in line[1:-1].split('|')] for line in tables.splitlines() if line[:1] == '|']
    return dict(zip(rows[0], next(row for row in rows if contender in row), strict=True))


def measured(copy, which='forward', **seconds):
    timings = {name: Timing([value] * 3, facts={'peak_bytes': 2**29}) for name, value in seconds.items()}
    timings['mamba-ssm'] = Timing(skipped="ModuleNotFoundError: No module named 'mamba_ssm'")
    return Comparison(case(which), timings, copy)


@pytest.mark.parametrize(
    ('which', 'dtype', 'expected'),
    [
        ('forward', 'float32', 4 * (3 * ELEMENTS + 2 * SHARED)),
        ('forward', 'bfloat16', 2 * (3 * ELEMENTS + 2 * SHARED)),
        ('backward', 'bfloat16', 2 * (5 * ELEMENTS + 4 * SHARED)),
        ('forward+backward', 'float16', 2 * (8 * ELEMENTS + 6 * SHARED)),
    ],
)
def test_bytes_that_a_scan_must_move(which, dtype, expected):
    assert selective_scan.least_bytes(case(which, dtype)) == expected


@pytest.mark.parametrize('which', ['forward', 'backward'])
def test_the_bytes_are_those_of_the_tensors(which):
    """The bytes are counted on tensors that a pass reads and writes."""
    inputs = selective_scan.make_inputs(2, 12, 49, CPU, torch.bfloat16)
    x = {name: inputs[name] for name in ('u', 'delta', 'B', 'C')}
    read = [*x.values(), *([inputs['u']] if which == 'backward' else [])]  # the gradient is as large as u
    written = list(x.values()) if which == 'backward' else [inputs['u']]
    sizes = {'batch': 2, 'channels': 12, 'length': 49, 'type': 'bfloat16', 'pass': which}
    assert selective_scan.least_bytes(sizes) == sum(tensor.nbytes for tensor in (*read, *written))


def test_tables_have_bandwidth_and_its_share_of_the_copy():
    copy = Timing([0.25e-3] * 3, facts={'bytes': 2**30})  # 4295 GB/s
    least = selective_scan.least_bytes(case())
    half = least / (0.5 * 2**30 / 0.25e-3)  # seconds at half of that
    tables = selective_scan.tables(a_report(measured(copy, native=half, triton=2 * half)))
    first, second = cells(tables, 'native'), cells(tables, 'triton')
    assert (first['GB/s'], first['% of copy'], first['peak (GiB)']) == ('2147', '50', '0.5')
    assert (second['GB/s'], second['% of copy'], second['time / native']) == ('1074', '25', '2')
    assert 'A copy moved 4295 GB/s' in tables
    assert '## Best backend, forward: % of the speed of a copy' in tables
    assert cells(tables, 'mamba-ssm')['remark'] == "skipped: ModuleNotFoundError: No module named 'mamba_ssm'"


def test_a_copy_that_could_not_run_leaves_the_bandwidth():
    tables = selective_scan.tables(a_report(measured(Timing(skipped='no memory'), native=1.0)))
    row = cells(tables, 'native')
    assert (row['GB/s'], row['% of copy']) == (report.short(selective_scan.least_bytes(case()) / 1e9), '')
    assert 'A copy moved' not in tables


def test_a_cpu_has_none_of_it():
    comparison = measured(None, native=1.0, reference=2.0, unbind=3.0)
    for timing_ in comparison.timings.values():
        timing_.facts.clear()
    tables = selective_scan.tables(a_report(comparison))
    assert list(cells(tables, 'native')) == [
        'stage', 'contender', 'ns/element', 'minimum', 'IQR', 'samples', 'time / native', 'error', 'remark',
    ]  # fmt: skip
    assert 'copy' not in tables


def test_the_copy_is_kept_and_drawn_over(tmp_path):
    original = a_report(measured(Timing([1.0, 2.0, 3.0], facts={'bytes': 8}), native=1.0, triton=2.0))
    original.save(tmp_path / 'result.json')
    assert Report.load(tmp_path / 'result.json') == original
    pytest.importorskip('matplotlib')
    assert plot.draw(original, tmp_path / 'result.png').stat().st_size > 10_000


def test_copying_copies():
    copying = Copying(CPU, 1000)
    copying.source += 7
    assert copying().sum().item() == 7000
    assert copying.bytes == copying.source.nbytes + copying.target.nbytes == 2000
    assert copying.source.data_ptr() != copying.target.data_ptr()


def test_the_copy_takes_turns_with_the_contenders():
    inputs = selective_scan.make_inputs(1, 8, 4, CPU)
    names, copying = ['reference', 'unbind'], Copying(CPU, 2**10)
    result = scans.compare(
        selective_scan.SCAN, names, inputs, 'backward', Protocol(1e-3, 3, 0), case('backward'), copying
    )
    assert list(result.timings) == names
    assert (len(result.copy.seconds), result.copy.facts) == (3, {'bytes': 2**11})
    assert copy_speed(result) == 2**11 / result.copy.median
    assert all(timing.facts['relative_error'] < 1e-5 for timing in result.timings.values())


def test_the_backward_alone_runs_its_forward_once():
    calls = []

    def scan(**inputs):
        calls.append(inputs)
        return peers.PEERS['chunks'](**inputs)

    inputs = selective_scan.make_inputs(1, 8, 4, CPU)
    call, both = (scans.call_of(scans.Contender(scan), inputs, which) for which in ('backward', 'forward+backward'))
    first, second = call(), call()
    assert len(calls) == 1
    for alone, again, together in zip(first, second, both(), strict=True):
        assert torch.equal(alone, together)
        assert torch.equal(alone, again)
    both()
    assert len(calls) == 3


def test_graphs_are_captured_once_and_timed_in_the_place_of_the_calls(monkeypatch):
    captured, replayed = [], []

    def as_graph(run, device):
        if len(captured) == 2:
            raise RuntimeError('cannot be captured')
        captured.append(run())
        return lambda: replayed.append(run)

    monkeypatch.setattr(scans, 'as_graph', as_graph)
    inputs = selective_scan.make_inputs(1, 8, 4, CPU)
    names = ['reference', 'unbind', 'chunks']
    result = scans.compare(
        selective_scan.SCAN,
        names,
        inputs,
        'backward',
        Protocol(1e-3, 3, 0),
        case('backward'),
        Copying(CPU, 8),
        graphs=True,
    )
    assert [len(gradients) for gradients in captured] == [7, 7]
    assert [len(timing.seconds) for timing in result.timings.values()] == [3, 3, 0]
    assert len(result.copy.seconds) == 3
    assert result.timings['chunks'].skipped == 'RuntimeError: cannot be captured'
    assert len(set(replayed)) == 2


def test_contenders_are_those_that_serve_the_device(monkeypatch):
    monkeypatch.setattr(native, 'instruction_sets', lambda: ('avx512', 'avx2'))
    monkeypatch.setattr(backends, 'BACKENDS', [replace(one, missing=lambda: None) for one in backends.BACKENDS])
    assert list(selective_scan.kernels(CPU)) == ['native-avx512', 'native-avx2', 'reference']
    assert list(selective_scan.kernels(GPU)) == ['native', 'triton', 'reference', 'mamba-ssm']
    assert list(selective_scan.contenders(GPU)) == [*selective_scan.kernels(GPU), *peers.PEERS]
    few = selective_scan.default_names('base', (224, 224), 128, 10**9, GPU)
    assert few == ['native', 'triton', 'mamba-ssm']


def network_report(seconds):
    timings = {name: Timing([value] * 3, facts={'parameters': 1}) for name, value in seconds.items()}
    timings['SparX-Mamba-T/mamba-ssm'] = Timing(skipped='not installed', facts={'parameters': 1})
    case = {'size': 'tiny', 'image': '224x224', 'batch': 128, 'mode': 'inference'}
    return Report('network', 'python', {'threads': 1}, report.environment(CPU), [Comparison(case, timings)])


def test_networks_stand_beside_the_same_one_with_another_scan():
    seconds = {
        'SparX-Mamba-T/native': 1.0,
        'SparX-Mamba-T/native compiled': 0.5,
        'SparX-Mamba-T/triton': 2.5,
        'SparX-Mamba-T/triton compiled': 2.0,
        'Swin-T': 2.0,
    }
    tables = network.tables(network_report(seconds))
    ratios = {name: cells(tables, name)['time / native scan'] for name in seconds}
    assert list(ratios.values()) == ['1', '1', '2.5', '4', '']
    assert cells(tables, 'SparX-Mamba-T/triton')['speed / Swin'] == '0.8'
    assert cells(tables, 'SparX-Mamba-T/mamba-ssm')['remark'] == 'skipped: not installed'
    assert 'scan' not in cells(network.tables(network_report({'Swin-T': 1.0})), 'Swin-T')


def test_a_network_comes_once_with_every_scan():
    both = network.contenders(['SparX-Mamba', 'Swin'], 'small', ['native', 'triton'])
    assert both == {
        'SparX-Mamba-S/native': {'family': 'SparX-Mamba', 'size': 'small', 'scan_backend': 'native'},
        'SparX-Mamba-S/triton': {'family': 'SparX-Mamba', 'size': 'small', 'scan_backend': 'triton'},
        'Swin-S': {'family': 'Swin', 'size': 'small'},
    }
    assert list(network.contenders(['SparX-Mamba'], 'tiny', ['auto'])) == ['SparX-Mamba-T']
