"""`mmsparx analyze erf`: measurements, files, messages and refusals."""

import sys
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip('mmpretrain', reason='a classifier is what is looked at')
pytest.importorskip('timm', reason='its models are asked for by name')
from mmsparx.__main__ import main
from mmsparx.analysis.erf import centred_square, receptive_fields
from mmsparx.cli import models
from mmsparx.cli.analyze import figures, memory

DIGITS = 'sparx_mamba_mini_digits'


@pytest.fixture
def erf(images, tmp_path):
    """Run the command on the images; returns the exit status."""

    def run(*arguments):
        options = ('--images', images, '--out', tmp_path / 'out', '--device', 'cpu')
        return main(['analyze', 'erf', *map(str, (*options, *arguments))])

    return run


def test_fields_of_two_models(erf, images, tmp_path, capsys):
    assert erf('--model', DIGITS, '--model', 'resnet18', '--labels', 'ours', 'ResNet', '--size', 64) == 0
    out = tmp_path / 'out'
    assert {path.name for path in out.iterdir()} == {'erf.png', 'erf.md', 'erf.npz'}
    said, err = capsys.readouterr()
    assert err == ''
    with np.load(out / 'erf.npz') as arrays:
        fields = dict(arrays)
    assert fields.keys() == {f'{label}.stage{i}' for label in ('ours', 'ResNet') for i in range(1, 5)}

    model = models.load_model(DIGITS, device='cpu').at_size(64)
    files = [images / name for name in ('0.png', '1.png', '2.png', '3.png', 'deep/4.png')]
    x = torch.stack([model.preprocessing(Image.open(path).convert('RGB')) for path in files])
    for i, expected in enumerate(receptive_fields(model.stages, [x]), 1):
        np.testing.assert_allclose(fields[f'ours.stage{i}'], expected.map, rtol=1e-3, atol=1e-5 * expected.map.max())

    text = (out / 'erf.md').read_text()
    side, area = centred_square(fields['ResNet.stage2'], 0.5)
    cells = [row.split('|')[1:-1] for row in text.splitlines() if row.startswith('| ResNet')]
    (row,) = [[cell.strip() for cell in row] for row in cells if row[1].strip() == '2']
    assert (row[2], row[5]) == ('8x8', f'{side} ({area:.2%})')
    for sentence in (
        'ours: random weights (seed 0), 5 images of 64x64.',
        '1 image cannot be read and was passed over: broken.jpg.',
    ):
        assert sentence in text
        assert sentence in said
    with Image.open(out / 'erf.png') as figure:
        assert figure.width > figure.height > 300


def test_of_a_choice_of_stages_and_images_with_trained_weights(erf, save, tmp_path, capsys):
    path = save(models.load_model(DIGITS, device='cpu').module.state_dict(), 'trained.pth')
    options = ('--stages', 3, 1, '--count', 2, '--scale', 'log')
    assert erf('--model', DIGITS, path, *options, '--batch-size', 1) == 0
    with np.load(tmp_path / 'out/erf.npz') as arrays:
        one = dict(arrays)
    assert list(one) == [f'{DIGITS}.stage1', f'{DIGITS}.stage3']
    assert one[f'{DIGITS}.stage1'].shape == (32, 32)  # of its test pipeline
    assert f'{DIGITS}: weights of trained.pth, 2 images of 32x32.' in capsys.readouterr().out

    assert erf('--model', DIGITS, path, *options) == 1
    assert 'out holds erf.npz, erf.md, erf.png already; name another folder by --out' in capsys.readouterr().err
    assert erf('--model', DIGITS, path, *options, '--force') == 0
    with np.load(tmp_path / 'out/erf.npz') as arrays:
        for name, field in arrays.items():
            np.testing.assert_allclose(field, one[name], rtol=1e-3, atol=1e-5 * field.max())


def test_dead_units_and_values_that_are_not_finite_are_reported(erf, monkeypatch, capsys):
    def stages(self, x):
        factors = torch.tensor([1, 1, float('nan'), 1, 1]).reshape(5, 1, 1, 1)
        return [-x.square(), x.square() * factors, x.square()]

    monkeypatch.setattr(models.NamedModel, 'stages', stages)
    assert erf('--model', DIGITS, '--stages', 1, 2, 3, '--batch-size', 5) == 0
    said = capsys.readouterr().out
    assert 'stage 1: the unit at the centre is dead: its score is 0 for every image, and so is the field.' in said
    assert 'stage 2: 1 of 5 images give values that are not finite, and are left out.' in said
    assert 'stage 3: ' not in said
    first, *_ = (row.split('|') for row in said.splitlines() if row.startswith(f'| {DIGITS}'))
    assert first[4].strip() == '-'


class TestRefusals:
    @pytest.mark.parametrize(
        ('arguments', 'message'),
        [
            (('--model', DIGITS, '--stages', '5'), f'--stages: {DIGITS} has stages 1 to 4, got 5'),
            (('--model', 'sparx_mamba_mini_digit'), "no model 'sparx_mamba_mini_digit': expected a config file"),
            (('--model', DIGITS, 'none.pth'), 'none.pth'),
            (('--model', 'a', 'b', 'c'), '--model: expected NAME or NAME CHECKPOINT, got a b c'),
            (('--model', DIGITS, '--device', 'abacus'), 'abacus'),
        ],
    )
    def test_is_a_sentence(self, erf, arguments, message, capsys):
        assert erf(*arguments) == 1
        said = capsys.readouterr()
        assert said.err.startswith('mmsparx: ')
        assert message in said.err
        assert 'Traceback' not in said.err
        assert said.out == ''

    def test_before_anything_is_measured(self, erf, monkeypatch, capsys):
        """Without the check, the results of earlier models would be lost when a later one lacks a stage."""
        monkeypatch.setattr('mmsparx.analysis.erf.receptive_fields', None)
        assert erf('--model', 'vit_tiny_patch16_224', '--model', 'resnet18', '--stages', 12, '--size', 32) == 1
        assert '--stages: resnet18 has stages 1 to 4, got 12' in capsys.readouterr().err

    def test_images_that_do_not_fit_into_memory(self, erf, monkeypatch, capsys):
        monkeypatch.setattr(memory, 'free_memory', lambda device: 2**20)
        assert erf('--model', DIGITS, '--size', 512, '--batch-size', 4) == 1
        assert '4 images of 512x512 take 0.0 GiB, and 0.0 GiB are free; take smaller' in capsys.readouterr().err

    @pytest.mark.parametrize(
        'arguments', [('--stages', '0'), ('--count', '0'), ('--size', 'x'), ('--scale', 'linear'), ('--mod', 'x')]
    )
    def test_by_the_parser(self, erf, arguments, capsys):
        with pytest.raises(SystemExit) as error:
            erf('--model', DIGITS, *arguments)
        assert error.value.code == 2
        assert 'usage: ' in capsys.readouterr().err

    def test_results_among_the_images(self, images, tmp_path, capsys):
        link = tmp_path / 'link'
        link.symlink_to(images)
        before = sorted(images.rglob('*'))
        for out in (images, images / 'new', link / 'new', images.parent):
            assert main(['analyze', 'erf', '--model', DIGITS, '--images', str(images), '--out', str(out)]) == 1
            assert 'where results would mix with images that are read' in capsys.readouterr().err
        assert sorted(images.rglob('*')) == before

    def test_folders_without_images(self, tmp_path, capsys):
        (tmp_path / 'empty').mkdir()
        for folder, message in (('empty', 'no image in '), ('none', 'no folder ')):
            options = ('--images', str(tmp_path / folder), '--out', str(tmp_path / 'out'))
            assert main(['analyze', 'erf', '--model', DIGITS, *options]) == 1
            assert capsys.readouterr().err.startswith(f'mmsparx: {message}')


def test_help_needs_neither_torch_nor_mmengine(monkeypatch, capsys):
    """The modules of the commands are imported again, while heavy packages cannot be."""
    for name in [name for name in sys.modules if name.startswith('mmsparx.cli')]:
        monkeypatch.delitem(sys.modules, name)
    for name in ('torch', 'numpy', 'mmengine', 'matplotlib', 'rich', 'PIL'):
        monkeypatch.setitem(sys.modules, name, None)
    import argparse
    import importlib

    analyze = importlib.import_module('mmsparx.cli.analyze')
    parser = argparse.ArgumentParser(prog='mmsparx')
    analyze.add_commands(parser.add_subparsers())
    for command in analyze.COMMANDS:
        with pytest.raises(SystemExit) as error:
            parser.parse_args(['analyze', command.name, '--help'])
        assert error.value.code == 0
        assert f'usage: mmsparx analyze {command.name} ' in capsys.readouterr().out


def test_names_are_within_the_figure_however_long(erf, tmp_path, monkeypatch):
    """The text beside a row neither leaves the figure nor overlaps that of the next row."""
    drawn = []
    monkeypatch.setattr(figures.Figure, 'savefig', lambda figure, path, **options: drawn.append((figure, options)))
    labels = [f'a_name_that_is_far_too_long_for_a_panel_number_{i}' for i in range(8)]
    pairs = [argument for _ in labels for argument in ('--model', 'resnet10t')]
    assert erf(*pairs, '--labels', *labels, '--size', 32, '--count', 1, '--stages', 1) == 0
    ((figure, options),) = drawn
    assert options == {'bbox_inches': 'tight'}  # it makes room for text outside the axes
    figure.draw_without_rendering()
    texts = [panel.yaxis.label for panel in figure.axes[:-1]]
    boxes = [text.get_window_extent() for text in texts]
    assert all(box.y0 > below.y1 for box, below in pairwise(boxes))
    assert all(max(map(len, text.get_text().splitlines())) <= 24 for text in texts)


def test_without_matplotlib(erf, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, 'matplotlib.figure', None)
    monkeypatch.delitem(sys.modules, 'mmsparx.cli.analyze.figures', raising=False)
    assert erf('--model', DIGITS) == 1
    assert 'matplotlib' in capsys.readouterr().err
