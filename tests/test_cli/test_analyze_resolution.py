"""`mmsparx analyze resolution`: the paper's GFLOPs at its sizes, and accuracies against those of single images."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip('mmpretrain', reason='a classifier is what is measured')
from mmsparx.__main__ import main
from mmsparx.cli import models
from mmsparx.cli.analyze import paper

DIGITS = 'sparx_mamba_mini_digits'


@pytest.fixture
def resolution(tmp_path):
    """Run the command; returns the exit status."""

    def run(*arguments):
        options = ('--out', tmp_path / 'out', '--device', 'cpu', '--workers', 0)
        return main(['analyze', 'resolution', *map(str, (*arguments, *options))])

    return run


def rows(tmp_path):
    return json.loads((tmp_path / 'out/resolution.json').read_text())


def test_the_papers_gflops(resolution, tmp_path, capsys):
    """All twelve, to the second digit: SparX-Mamba without norms, VMamba with them."""
    assert resolution('--model', 'sparx_mamba_t_in1k', '--model', 'vmamba_t_in1k') == 0
    found = rows(tmp_path)
    assert [round(row['macs'] / 1e9, 2) for row in found[:6]] == [5.25, 15.41, 27.40, 42.82, 61.66, 109.61]
    assert [round(row['macs_with_norms'] / 1e9, 2) for row in found[6:]] == [4.86, 14.27, 25.38, 39.65, 57.09, 101.50]
    for row, key in zip(found, ['macs'] * 6 + ['macs_with_norms'] * 6, strict=True):
        assert row[key] / 1e9 == pytest.approx(row['paper_gflops'], abs=0.06)
    assert {row['crop_ratio'] for row in found[:6]} == {0.9}
    assert {row['crop_ratio'] for row in found[6:]} == {0.875}
    out = capsys.readouterr().out
    assert out.startswith((tmp_path / 'out/resolution.md').read_text().partition('\n\n')[2].rstrip())
    (line,) = [line for line in out.splitlines() if 'sparx_mamba_t_in1k ' in line and ' 1024 ' in line]
    assert [cell.strip() for cell in line.split('|')[2:-1]] == ['1024', '27.05', '109.61', '110.60', '109.6', '71.8']
    with Image.open(tmp_path / 'out/resolution.png') as figure:
        assert figure.width > 300


@pytest.fixture
def data(tmp_path):
    """Ten folders of classes with two images each, of different shapes, and one that cannot be read."""
    rng = np.random.default_rng(0)
    for label in range(10):
        folder = tmp_path / 'val' / f'class {label}'
        folder.mkdir(parents=True)
        for i, size in enumerate([(50, 40), (36, 64)]):
            values = rng.integers(0, 255, (5, 5, 3), dtype=np.uint8)
            Image.fromarray(values).resize(size).save(folder / f'{i}.png')
    (folder / 'broken.png').write_bytes(b'no image')
    return tmp_path / 'val'


def test_accuracies(resolution, save, data, tmp_path, capsys):
    """Against one image at a time, resized and cropped by Pillow."""
    torch.manual_seed(3)
    module = models.load_model(DIGITS, device='cpu').module
    for parameter in module.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    path = save(module.state_dict(), 'trained.pth')
    given = ('--model', DIGITS, path, '--data', data, '--sizes', 32, 40)
    assert resolution(*given, '--crop-ratio', 0.8, '--batch-size', 3) == 0
    model = models.load_model(DIGITS, str(path), device='cpu')
    for row in rows(tmp_path):
        size, top1, top5, count = row['size'], 0, 0, 0
        for label in range(10):
            for file in sorted((data / f'class {label}').glob('[01].png')):
                image = Image.open(file)
                short = math.floor(size / 0.8)
                width, height = (int(side * short / min(image.size)) for side in image.size)
                image = image.resize((width, height), Image.Resampling.BICUBIC)
                left, top = round((width - size) / 2), round((height - size) / 2)
                image = image.crop((left, top, left + size, top + size))
                with torch.no_grad():
                    scores = model.module(model.preprocessing.normalise(np.asarray(image))[None])
                best = scores[0].argsort(descending=True).tolist()
                top1, top5, count = top1 + (best[0] == label), top5 + (label in best[:5]), count + 1
        assert row['accuracies']['count'] == count == 20
        assert row['accuracies']['top1'] == pytest.approx(100 * top1 / count)
        assert row['accuracies']['top5'] == pytest.approx(100 * top5 / count)
        assert row['accuracies']['unreadable'] == ['class 9/broken.png']
    text = capsys.readouterr().out
    assert f'{DIGITS}: weights of trained.pth, crop ratio 0.8, 20 images.' in text
    assert '1 image cannot be read and was passed over: class 9/broken.png.' in text


@pytest.mark.parametrize(
    ('folders', 'message'),
    [
        ((), 'expected a folder with a folder of images for each class'),
        (('a', 'b'), 'sparx_mamba_mini_digits has 10 classes, and --data has 2 folders of classes'),
    ],
)
def test_folders_that_do_not_fit(folders, message, resolution, tmp_path, capsys):
    for name in ('.', *folders):
        (tmp_path / 'val' / name).mkdir(parents=True, exist_ok=True)
    for name in folders:
        Image.new('RGB', (40, 40)).save(tmp_path / f'val/{name}/0.png')
    assert resolution('--model', DIGITS, '--data', tmp_path / 'val', '--sizes', 32) == 1
    assert message in capsys.readouterr().err


def test_models_are_checked_before_anything_is_measured(resolution, data, monkeypatch, tmp_path, capsys):
    """A fault of the last model ends the command before the first is measured."""
    from mmsparx.cli.analyze import accuracy

    monkeypatch.setattr(accuracy, 'measure', None)
    options = ('--model', DIGITS, '--data', data, '--sizes', 32)
    pytest.importorskip('timm')
    assert resolution(*options, '--model', 'resnet18') == 1
    assert 'resnet18 has 1000 classes, and --data has 10 folders of classes' in capsys.readouterr().err
    pytest.importorskip('mmdet')
    assert resolution(*options, '--model', 'mask_rcnn_sparx_mini_overfit') == 1
    assert 'expected a classifier for --data, got a model of mmdet' in capsys.readouterr().err
    assert not list((tmp_path / 'out').iterdir())


def test_results_are_written_after_every_size(resolution, data, monkeypatch, tmp_path):
    """Ctrl-C leaves the results measured so far."""
    from mmsparx.cli.analyze import accuracy

    measure = accuracy.measure

    def interrupted(model, *arguments):
        if model.preprocessing.size == (64, 64):
            raise KeyboardInterrupt
        return measure(model, *arguments)

    monkeypatch.setattr(accuracy, 'measure', interrupted)
    assert resolution('--model', DIGITS, '--data', data, '--sizes', 32, 64) == 130
    assert [row['size'] for row in rows(tmp_path)] == [32]
    assert rows(tmp_path)[0]['crop_ratio'] == 1


def test_small_networks_have_digits_that_count(resolution, capsys):
    assert resolution('--model', DIGITS, '--sizes', 32) == 0
    (row,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith(f'| {DIGITS}')]
    assert 0 < float(row.split('|')[4]) < 0.1


def test_the_figure_says_which_weights_are_random(tmp_path, monkeypatch):
    from mmsparx.cli.analyze import curves
    from mmsparx.cli.analyze.accuracy import Accuracies
    from mmsparx.cli.analyze.sizes import Row

    drawn = []
    monkeypatch.setattr(curves.Figure, 'savefig', lambda figure, *_, **__: drawn.append(figure))
    row = Row('a', 'random weights (seed 0)', 32, 1.0, 1, 1, 1)
    curves.draw_sizes([row], tmp_path / 'x.png')
    curves.draw_sizes([replace(row, accuracies=Accuracies(50.0, None, 2))], tmp_path / 'x.png')
    texts = [figure.legends[0].get_texts()[0].get_text() for figure in drawn]
    assert texts == ['a', 'a, random weights (seed 0)']  # multiply-adds do not depend on weights


def test_results_are_not_written_among_images(resolution, data, tmp_path, capsys):
    with pytest.raises(SystemExit):
        resolution('--model', DIGITS, '--crop-ratio', 1.5)
    assert main(['analyze', 'resolution', '--model', DIGITS, '--data', str(data), '--out', str(data / 'out')]) == 1
    assert 'where results would mix with images' in capsys.readouterr().err


def test_figures_of_the_paper():
    assert paper.accuracy('sparx_mamba_tiny.in1k', 1024) == (109.6, 71.8)
    assert paper.accuracy('configs/classification/vmamba_s_in1k.py', 640) == (None, None)
    assert paper.accuracy('resnet50', 224) == (None, None)
    assert paper.throughput('sparx_mamba_b_in1k', 1024, 32) == (29, 36981)
    assert paper.throughput('swin_small_patch4_window7_224', 224, 128) == (1419, None)
    assert paper.throughput('swin_small_patch4_window7_224', 384, 128) == (None, None)
