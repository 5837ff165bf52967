"""`mmsparx analyze throughput`, on a CPU; the protocol is tested with mmsparx.analysis.timing."""

import json
import re

import pytest
import torch
from torch import nn

pytest.importorskip('mmpretrain', reason='a classifier is what is measured')
pytest.importorskip('timm', reason='its models are asked for by name')
from mmsparx.__main__ import main
from mmsparx.analysis.saved import kept_bytes
from mmsparx.cli.analyze import speed

DIGITS = 'sparx_mamba_mini_digits'


@pytest.fixture
def throughput(tmp_path):
    """Run the command; returns the exit status."""

    def run(*arguments):
        options = ('--out', tmp_path / 'out', '--device', 'cpu', '--seconds', 0.01, '--samples', 3)
        return main(['analyze', 'throughput', *map(str, (*options, *arguments))])

    return run


def test_two_models_in_two_cases(throughput, tmp_path, capsys):
    given = ('--model', DIGITS, '--model', 'resnet18', '--labels', 'ours', 'ResNet')
    assert throughput(*given, '--cases', '32/1', '64/2') == 0
    found = json.loads((tmp_path / 'out/throughput.json').read_text())
    rows = found['rows']
    cases = [(32, 1), (64, 2)]
    assert [(row['size'], row['batch'], row['model']) for row in rows] == [
        (*case, label) for case in cases for label in ('ours', 'ResNet')
    ]
    for row in rows:
        middle = sorted(row['seconds'])[1]
        assert row['images_per_second'] == pytest.approx(row['batch'] / middle)
        assert row['peak_bytes'] is None
        assert row['saved_bytes_per_image'] > 0
        assert row['paper_images_per_second'] is None
    # Twice the side keeps about four times the maps.
    for i in (0, 1):
        assert 3 < rows[2 + i]['saved_bytes_per_image'] / rows[i]['saved_bytes_per_image'] < 4.5
    out = capsys.readouterr().out
    assert f'Measured on CPU, {torch.get_num_threads()} thread' in out
    assert (tmp_path / 'out/throughput.md').read_text().partition('\n\n')[2].strip() in out


def test_a_failure_is_a_row_with_the_reason(throughput, tmp_path, monkeypatch, capsys):
    """The reason is a GPU's message; the paper's figures stand beside it."""
    call = speed._inference

    def inference(model, *arguments):
        def fail():
            raise torch.OutOfMemoryError('CUDA out of memory.')

        return fail if model.name == 'sparx_mamba_t_in1k' else call(model, *arguments)

    monkeypatch.setattr(speed, '_inference', inference)
    monkeypatch.setattr(speed, '_saved_by_an_image', lambda *_: None)
    assert throughput('--model', DIGITS, '--model', 'sparx_mamba_t_in1k', '--cases', '32/2') == 0
    fits, fails = json.loads((tmp_path / 'out/throughput.json').read_text())['rows']
    assert fits['images_per_second'] > 0
    assert fails['images_per_second'] is None
    out = capsys.readouterr().out
    assert 'sparx_mamba_t_in1k at 32/2: out of memory: CUDA out of memory.' in out
    assert re.search(r'sparx_mamba_t_in1k +\| 32 +\| 2 +\| out of memory', out)


def test_images_that_do_not_fit_and_a_size_that_is_not_taken(throughput, tmp_path, capsys):
    """These are rows, too, without a traceback; no machine has 10^14 bytes."""
    pair = ('--model', 'vit_tiny_patch16_224', '--model', DIGITS)
    assert throughput(*pair, '--cases', '7/1', '300000/100') == 0
    rows = json.loads((tmp_path / 'out/throughput.json').read_text())['rows']
    refused, fits, *large = [row['skipped'] for row in rows]
    assert refused.startswith('ValueError: vit_tiny_patch16_224 does not take images of 7x7: ')
    assert fits is None
    assert [text.partition(':')[0] for text in large] == ['out of memory'] * 2
    assert 'Traceback' not in capsys.readouterr().err


def test_a_detector_is_refused_before_anything_is_measured(throughput, tmp_path, capsys):
    pytest.importorskip('mmdet')
    assert throughput('--model', DIGITS, '--model', 'mask_rcnn_sparx_mini_overfit') == 1
    assert 'mask_rcnn_sparx_mini_overfit: expected classifiers or segmenters, got a detector' in capsys.readouterr().err
    assert not list((tmp_path / 'out').iterdir())


@pytest.mark.parametrize('case', ['224', '224/0', '224x8', 'a/8'])
def test_a_case_that_is_not_a_size(case, throughput, capsys):
    with pytest.raises(SystemExit):
        throughput('--model', DIGITS, '--cases', case)
    assert f'expected SIZE/BATCH as 224/128, got {case!r}' in capsys.readouterr().err


def test_a_protocol_that_is_impossible(throughput, capsys):
    assert throughput('--model', DIGITS, '--seconds', -1) == 1
    assert 'expected seconds > 0' in capsys.readouterr().err


def test_kept_bytes():
    """Linear layers and ReLUs keep the output of each ReLU: the next layer's input or the model's output."""
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4), nn.ReLU())
    x = torch.randn(5, 8)
    assert kept_bytes(lambda: model(x), x.device) == 4 * 5 * (16 + 4)
    with torch.no_grad():  # the caller's mode does not matter
        assert kept_bytes(lambda: model(x), x.device) == 4 * 5 * (16 + 4)
