"""The benchmarks as a user runs them, on tiny sizes; no test depends on speed."""

import json
import re
import runpy
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from helpers import SMALL_ARCH

pytest.importorskip('mmengine')
pytest.importorskip('timm')
import timm
from torch import nn

from benchmarks import command_line, cross_selective_scan, depthwise_conv, network, plot, report, scans, selective_scan
from benchmarks.report import Comparison, Report, markdown, short
from mmsparx.analysis.timing import Protocol, Timing
from mmsparx.layers.basic import DepthwiseConv2d
from mmsparx.models import SparXClassifier, SparXMamba
from mmsparx.ops import native

ROOT = Path(__file__).parents[2]
CPU = torch.device('cpu')
SHORT = ['--seconds', '0.001', '--samples', '3', '--threads', '1']
SCAN = ['--networks', 'tiny', '--images', '32', '--batches', '1', '--stages', '3', *SHORT]


@pytest.fixture
def _quick(monkeypatch):
    """Let samples have one call, however short."""
    monkeypatch.setattr(command_line, 'Protocol', lambda seconds, samples: Protocol(seconds, samples, 0))


def read(path):
    return Report.load(path), path.with_suffix('.md').read_text()


@pytest.mark.usefixtures('_quick')
def test_selective_scan(tmp_path, capsys):
    path = selective_scan.main([*SCAN, '--out', str(tmp_path), '--contenders', 'reference', 'unbind', 'chunks'])
    result, tables = read(path)
    assert path.parent.parent == tmp_path
    assert path.with_suffix('.png').stat().st_size > 10_000
    assert [comparison.case['pass'] for comparison in result.comparisons] == ['forward', 'forward+backward']
    for comparison in result.comparisons:
        assert list(comparison.timings) == ['reference', 'unbind', 'chunks']
        assert (comparison.case['channels'], comparison.case['length']) == (4 * 640, 4)
        for timing in comparison.timings.values():
            assert len(timing.seconds) == 3
            assert timing.facts['relative_error'] < 1e-5
    assert '## All contenders, forward: tiny, 32x32, batch 1' in tables
    assert '| stage | contender | ns/element | minimum |' in re.sub(' +', ' ', tables)
    assert 'time / reference' in tables
    assert tables in capsys.readouterr().out
    assert (result.settings['threads'], str(tmp_path) in path.read_text()) == (1, False)


@pytest.mark.usefixtures('_quick')
def test_depthwise_conv(tmp_path, monkeypatch):
    monkeypatch.setitem(SparXMamba.ARCHITECTURES, 'tiny', SparXMamba(SMALL_ARCH).arch)
    path = depthwise_conv.main(['--image', '32', *SHORT, '--out', str(tmp_path)])
    result, tables = read(path)
    layers = Counter()
    for comparison in result.comparisons:
        layers[comparison.case['pass']] += comparison.case['layers']
        assert {'torch', 'torch, convolution alone', 'reference'} < set(comparison.measured)
        for timing in comparison.timings.values():
            assert timing.facts['relative_error'] < 1e-5
    with torch.device('meta'):
        modules = [m for m in SparXMamba('tiny').modules() if isinstance(m, DepthwiseConv2d)]
    assert layers == dict.fromkeys(('forward', 'backward'), len(modules))
    assert tables.index('## All layers') < tables.index('| float32 | forward  |') < tables.index('## Layer by layer')


@pytest.mark.usefixtures('_quick')
def test_network(tmp_path, monkeypatch):
    small = dict(depths=(1, 1, 1, 1), pretrained=False)
    sizes = {'Swin': dict(embed_dim=8, num_heads=(1, 1, 1, 1), **small), 'ConvNeXt': dict(dims=(8, 8, 8, 8), **small)}
    create = timm.create_model
    names = []

    def smaller(name, **options):
        names.append(name)
        return create(name, **options, **sizes['Swin' if 'swin' in name else 'ConvNeXt'])

    monkeypatch.setattr(timm, 'create_model', smaller)
    monkeypatch.setitem(SparXMamba.ARCHITECTURES, 'tiny', SparXMamba(SMALL_ARCH).arch)
    arguments = ['--sizes', 'tiny', '--images', '64', '--batches', '2', *SHORT]
    arguments += ['--families', 'SparX-Mamba', 'Swin', 'ConvNeXt']
    arguments += ['--scan-backend', 'reference', 'mamba-ssm']
    result, tables = read(network.main([*arguments, '--out', str(tmp_path)]))
    assert set(names) == {'swin_tiny_patch4_window7_224', 'convnext_tiny'}
    assert [(c.case['mode'], c.case['batch']) for c in result.comparisons] == [('inference', 2), ('training', 2)]
    for comparison in result.comparisons:
        assert list(comparison.timings) == [
            'SparX-Mamba-T/reference', 'SparX-Mamba-T/mamba-ssm', 'Swin-T', 'ConvNeXt-T',
        ]  # fmt: skip
        other = comparison.timings.pop('SparX-Mamba-T/mamba-ssm')
        assert "backend 'mamba-ssm', asked for by backend=, cannot run: " in other.skipped
        assert [len(timing.seconds) for timing in comparison.timings.values()] == [3, 3, 3]
    assert 'time / reference scan' in tables
    assert '## Training' in tables
    assert 'speed / Swin' in tables
    assert 'kept (MiB/image)' in tables.partition('## Training')[2]
    assert 'kept' not in tables.partition('## Training')[0]


@pytest.mark.skipif(native.missing() is not None, reason=f'the compiled kernels are not here: {native.missing()}')
@pytest.mark.parametrize(('autocast', 'most'), [(None, 76), (torch.bfloat16, 44)])
def test_memory_kept_by_a_forward_pass(autocast, most):
    """In MiB: less than Swin keeps, since cheap operations are recomputed; see `mmsparx.layers.recompute`."""
    images = torch.randn(1, 3, 224, 224)
    ours, swin = (
        network.kept_by_forward(network.build(family, 'tiny'), images, autocast) / 2**20
        for family in ('SparX-Mamba', 'Swin')
    )
    assert ours < most < 0.8 * swin


def test_the_networks_are_those_of_their_names():
    published = {
        'SparX-Mamba': 27.1,
        'VMamba': 30.7,
        'Swin': 28.3,
        'ConvNeXt': 28.6,
    }  # million parameters of the tiny ones
    with torch.device('meta'):
        models = {family: network.build(family, 'tiny') for family in network.FAMILIES}
    counts = {family: sum(p.numel() for p in model.parameters()) / 1e6 for family, model in models.items()}
    assert counts == pytest.approx(published, rel=0.01)


def test_a_training_step_trains_and_leaves_no_gradients():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.LazyLinear(1000))
    images = torch.randn(2, 3, 8, 8)
    model(images)
    step = network.training_of(model, images)
    losses = [step().item() for _ in range(10)]
    assert losses[-1] < losses[0]
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize('mode', network.MODES)
@pytest.mark.parametrize('precision', ['fp32', 'bf16'])
def test_compare_takes_any_classifier(mode, precision):
    models = {name: nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 1000)) for name in 'ab'}
    models['c'] = SparXClassifier(SparXMamba(SMALL_ARCH, out_indices=(3,), output_norm=False), 1000)
    images = torch.randn(2, 3, 8, 8)
    protocol = Protocol(1e-3, 3, 0)
    if mode == 'training':
        del models['c']  # too small an image for its batch norms
    comparison = network.compare(models, images, mode, protocol, precision)
    assert len(comparison.measured) == len(models)


def test_tf32_is_put_back():
    matmul = torch.backends.cuda.matmul
    before = matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    with network.products_in_tf32(not before[0]):
        assert matmul.allow_tf32 is torch.backends.cudnn.allow_tf32 is (not before[0])
    assert (matmul.allow_tf32, torch.backends.cudnn.allow_tf32) == before


def test_sizes_are_those_of_the_token_mixers():
    backbone = SparXMamba('tiny')
    shapes = []
    for stage in backbone.stages:
        mixer = stage.layers[0].mixer
        mixer.scan = lambda x, mixer=mixer: shapes.append((len(mixer.D), x.shape[2] * x.shape[3])) or x
    backbone(torch.zeros(2, 3, 70, 40))
    expected = [selective_scan.stage_shape('tiny', (70, 40), stage) for stage in (1, 2, 3, 4)]
    assert shapes == [(shape['channels'], shape['length']) for shape in expected]


def test_default_contenders():
    elements = scans.CHECKED_UP_TO
    every = selective_scan.default_names('tiny', (224, 224), 1, elements)
    assert set(selective_scan.PEERS) < set(every)
    few = selective_scan.default_names('base', (224, 224), 1, elements)
    assert 'reference' in few
    assert not set(few) & set(selective_scan.PEERS)
    assert sum(name.startswith('native') for name in few) <= 1
    assert 'reference' not in selective_scan.default_names('base', (224, 224), 1, 10**9)


@pytest.mark.usefixtures('_quick')
def test_cases_that_do_not_fit_into_memory_are_skipped(tmp_path, monkeypatch):
    monkeypatch.setattr(scans, 'free_memory', lambda device: 1000)
    path = selective_scan.main([*SCAN, '--out', str(tmp_path), '--contenders', 'unbind'])
    result, tables = read(path)
    assert not any(comparison.measured for comparison in result.comparisons)
    assert 'GiB of memory' in tables


@pytest.mark.usefixtures('_quick')
def test_a_contender_that_fails_stays_in_the_table(tmp_path, monkeypatch):
    def fail(**_):
        raise RuntimeError('not on this machine')

    monkeypatch.setitem(selective_scan.PEERS, 'chunks', fail)
    chosen = ['reference', 'unbind', 'chunks', 'blelloch']
    result, tables = read(selective_scan.main([*SCAN, '--out', str(tmp_path), '--contenders', *chosen]))
    assert result.comparisons[0].timings['chunks'].skipped == 'RuntimeError: not on this machine'
    assert 'skipped: RuntimeError: not on this machine' in tables


@pytest.mark.parametrize(
    ('main', 'arguments', 'message'),
    [
        (selective_scan.main, ['--contenders', 'mamba'], r"invalid choice: 'mamba' \(choose from .*unbind"),
        (selective_scan.main, ['--contenders', 'triton'], "invalid choice: 'triton'"),  # not on a CPU
        (selective_scan.main, ['--cuda-graphs'], 'only a GPU has them; add --device cuda'),
        (selective_scan.main, ['--networks', 'large'], "invalid choice: 'large'"),
        (cross_selective_scan.main, ['--contenders', 'unbind'], r"invalid choice: 'unbind' \(choose from .*reference"),
        (cross_selective_scan.main, ['--contenders', 'mamba-ssm-plain'], "invalid choice: 'mamba-ssm-plain'"),
        (selective_scan.main, ['--images', '224x'], "expected a size in pixels as 224 or 800x1280 .*got '224x'"),
        (selective_scan.main, ['--images', '0'], "got '0'"),
        (selective_scan.main, ['--batches', '0'], "expected an integer from 1 on, got '0'"),
        (selective_scan.main, ['--threads', '-1'], "from 1 on, got '-1'"),
        (selective_scan.main, ['--samples', '2'], 'at least 3 samples, got .*samples=2'),
        (selective_scan.main, ['--device', 'tpu'], "expected cpu, cuda or cuda:N, got 'tpu'"),
        (selective_scan.main, ['--device', 'meta'], "expected cpu, cuda or cuda:N, got 'meta'"),
        (selective_scan.main, ['--ou', 'x'], 'unrecognized arguments: --ou'),
        (network.main, ['--sizes', 'large'], "invalid choice: 'large'"),
        (network.main, ['--precision', 'tf32'], 'only a GPU has it; add --device cuda'),
        (
            network.main,
            ['--scan-backend', 'mamba-ssm', 'fast'],
            "unknown selective-scan backend 'fast', asked for by --scan-backend",
        ),
    ],
)
def test_bad_options_say_what_is_wrong(main, arguments, message, capsys):
    with pytest.raises(SystemExit) as error:
        main(arguments)
    assert error.value.code == 2
    assert re.search(message, capsys.readouterr().err)


@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a GPU')
def test_cuda_without_a_gpu(capsys):
    with pytest.raises(SystemExit):
        network.main(['--device', 'cuda'])
    assert 'this torch sees no GPU' in capsys.readouterr().err


@pytest.mark.parametrize('module', ['selective_scan', 'cross_selective_scan'])
def test_run_as_a_module(module, monkeypatch, capsys):
    monkeypatch.setattr(sys, 'argv', [module, '--help'])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module(f'benchmarks.{module}', run_name='__main__')
    assert ended.value.code == 0
    assert '--contenders' in capsys.readouterr().out


def a_report(**facts):
    environment = {**report.environment(CPU), **facts}
    timings = {
        'ours': Timing([1.5, 2.5, 2.0], 2, None, {'relative_error': 1e-7}),
        'theirs': Timing(skipped='why "not"'),
    }
    return Report('network', 'python', {'threads': 1}, environment, [Comparison({'size': 'tiny', 'batch': 1}, timings)])


def test_json_round_trip_with_samples_on_a_line(tmp_path):
    path = tmp_path / 'deep' / 'result.json'
    original = a_report()
    original.save(path)
    assert Report.load(path) == original
    assert '"seconds": [ 1.5, 2.5, 2.0 ]' in path.read_text()
    json.loads(path.read_text())


@pytest.mark.parametrize('text', ['', '[]', '{"benchmark": 1}', '{"comparisons": [{"case": {}}]}'])
def test_another_file_is_refused(tmp_path, text, monkeypatch, capsys):
    path = tmp_path / 'result.json'
    path.write_text(text)
    with pytest.raises(ValueError, match=r'result\.json: expected the JSON of a benchmark'):
        Report.load(path)
    monkeypatch.setattr(sys, 'argv', ['plot', str(path)])
    with pytest.raises(SystemExit):
        plot.main()
    assert 'expected the JSON of a benchmark' in capsys.readouterr().err


def test_the_environment_names_no_machine_user_or_folder():
    import platform

    facts = report.environment(CPU)
    text = json.dumps(facts)
    assert facts['hardware']['cpu']['cores'] >= 1
    assert facts['torch'] == torch.__version__
    for private in (str(ROOT), str(Path.home()), sys.prefix, platform.node()):
        assert not re.search(rf'(?<!\w){re.escape(private)}(?!\w)', text), private


@pytest.mark.parametrize(
    ('text', 'expected'),
    [
        ('/a/bin/c++ -O3 -I/a/b x/y', 'c++ -O3 -Ib x/y'),
        (['at "/a/b/x.py"', 3], ['at "x.py"', 3]),
        ({'a': 'c++ 12.2 -mavx2'}, {'a': 'c++ 12.2 -mavx2'}),
    ],
)
def test_folders_are_cut_off(text, expected):
    assert report._without_folders(text) == expected


def test_the_output_folder_is_no_part_of_the_command():
    command = command_line._command('network', ['--compile', '--out', '/a/b', '--name', 'a b', '--out=/x'])
    assert command == "python -m benchmarks.network --compile --name 'a b'"


@pytest.mark.parametrize(
    ('hardware', 'name'),
    [
        ({'cpu': {'model': 'Intel(R) Xeon(R) Gold 6338 CPU @ 2.00GHz', 'cores': 4}}, 'intel-xeon-gold-6338-4-cores'),
        ({'cpu': {'model': 'x', 'cores': 4}, 'gpu': {'model': 'NVIDIA A100'}}, 'nvidia-a100'),
    ],
)  # fmt: skip
def test_hardware_names(hardware, name):
    assert report.hardware_name({'hardware': hardware}) == name


def test_markdown():
    table = markdown([{'name': 'a', 'ms': 1234.56, 'x': 0.01234}, {'name': 'bc', 'ms': None, 'error': 3.21e-8}])
    assert table == (
        '| name |   ms |      x | error |\n'
        '| ---- | ---: | -----: | ----: |\n'
        '| a    | 1235 | 0.0123 |       |\n'
        '| bc   |      |        | 3e-08 |'
    )
    assert markdown([]) == ''
    assert [short(x) for x in (0.0, 0.5, 12.3456, 99999.0)] == ['0', '0.5', '12.3', '99999']


def test_a_run_without_matplotlib_keeps_its_results(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, 'matplotlib', None)
    path = selective_scan.main([*SCAN, '--out', str(tmp_path), '--contenders', 'unbind', '--passes', 'forward'])
    assert path.is_file()
    assert 'no plot without matplotlib' in capsys.readouterr().out


@pytest.mark.usefixtures('_quick')
def test_deployment(tmp_path, monkeypatch):
    pytest.importorskip('onnxscript', reason='networks are exported by it')
    pytest.importorskip('onnxruntime', reason='it runs the files')
    from benchmarks import deployment

    small = dict(channels=[8] * 4, stages=[dict(depth=1)] * 4)
    monkeypatch.setitem(SparXMamba.ARCHITECTURES, 'tiny', SparXMamba(small).arch)
    create = timm.create_model
    sizes = dict(depths=(1, 1, 1, 1), embed_dim=8, num_heads=(1, 1, 1, 1))
    monkeypatch.setattr(timm, 'create_model', lambda name, **options: create(name, **{**options, **sizes}))
    path = deployment.main(['--images', '64', '--files', '.onnx', *SHORT, '--out', str(tmp_path)])
    (comparison,), table = Report.load(path).comparisons, path.with_suffix('.md').read_text()
    library = ['onnxruntime with mmsparx'] if native.without_ort() is None else []
    names = ['torch, eager', 'torch, eager, folded', 'onnxruntime', *library]
    assert list(comparison.measured) == [
        *(f'SparX-Mamba-T, {name}' for name in names), 'Swin-T, torch, eager', 'Swin-T, onnxruntime',
    ]  # fmt: skip
    for name in names:
        assert comparison.timings[f'SparX-Mamba-T, {name}'].facts['error'] < 1e-5
    assert 'speed / Swin-T, onnxruntime' in table
