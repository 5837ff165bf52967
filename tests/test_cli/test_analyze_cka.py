"""`mmsparx analyze cka`: measurements, files, messages and refusals."""

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip('mmpretrain', reason='a classifier is what is looked at')
pytest.importorskip('timm', reason='its models are asked for by name')
from mmsparx.__main__ import main
from mmsparx.analysis.cka import MinibatchCKA
from mmsparx.cli import models

DIGITS = 'sparx_mamba_mini_digits'
LAYERS = ['1.0', '2.0', '2.1', '3.0', '3.1', '3.2', '4.0']


@pytest.fixture
def cka(images, tmp_path):
    """Run the command on the images; returns the exit status."""

    def run(*arguments):
        options = ('--images', images, '--out', tmp_path / 'out', '--device', 'cpu')
        return main(['analyze', 'cka', *map(str, (*options, *arguments))])

    return run


@pytest.fixture
def matrices(tmp_path):
    """The matrices that the command has written."""

    def read():
        with np.load(tmp_path / 'out/cka.npz') as arrays:
            return dict(arrays)

    return read


def expected(images, hooked, inputs=False):
    """The similarity of modules of the digits' model over all images in one minibatch."""
    model = models.load_model(DIGITS, device='cpu')
    kept = []
    for module in hooked(model):
        module.register_forward_hook(lambda _, args, y: kept.append((args[0] if inputs else y).double()))
    files = [images / name for name in ('0.png', '1.png', '2.png', '3.png', 'deep/4.png')]
    with torch.no_grad():
        model.module.backbone(torch.stack([model.preprocessing(Image.open(path).convert('RGB')) for path in files]))
    total = MinibatchCKA()
    total.update(kept)
    return total.matrix().numpy()


def mixers(model):
    return [layer.mixer for stage in model.module.backbone.stages for layer in stage.layers]


def test_mixers_of_two_models(cka, matrices, images, tmp_path, capsys):
    models = ('--model', DIGITS, '--model', 'vmamba_tiny', '--labels', 'mini', 'VMamba', '--size', 32)
    assert cka(*models) == 0
    found = matrices()
    assert found.keys() == {'mini', 'mini.layers', 'VMamba', 'VMamba.layers'}
    np.testing.assert_allclose(found['mini'], expected(images, mixers), rtol=1e-4, atol=1e-6)
    assert found['mini.layers'].tolist() == LAYERS
    assert found['VMamba'].shape == (11, 11)
    np.testing.assert_allclose(np.diag(found['VMamba']), 1)
    text = (tmp_path / 'out/cka.md').read_text()
    mean = found['mini'][~np.eye(7, dtype=bool)].mean()
    row = [cell.strip() for line in text.splitlines() if line.startswith('| mini') for cell in line.split('|')[1:-1]]
    assert row == ['mini', '7', f'{mean:.3f}', '5', '1']
    said = capsys.readouterr().out
    assert 'VMamba: random weights (seed 0), images of 32x32.' in said
    assert '1 image cannot be read and was passed over: broken.jpg.' in said
    with Image.open(tmp_path / 'out/cka.png') as figure:
        assert figure.width > figure.height > 300


def test_scans(cka, matrices, images):
    assert cka('--model', DIGITS, '--features', 'scan') == 0
    scans = expected(images, lambda model: [mixer.out_proj for mixer in mixers(model)], inputs=True)
    np.testing.assert_allclose(matrices()[DIGITS], scans, rtol=1e-4, atol=1e-6)
    assert not np.allclose(scans, expected(images, mixers), atol=1e-3)


def test_modules_by_name(cka, matrices, images):
    assert cka('--model', DIGITS, '--layers', 'backbone.stages.?.layers.?.mixer') == 0
    found = matrices()
    assert found[f'{DIGITS}.layers'][4] == 'backbone.stages.2.layers.1.mixer'
    np.testing.assert_allclose(found[DIGITS], expected(images, mixers), rtol=1e-4, atol=1e-6)
    assert cka('--model', 'convnext_atto', '--size', 32, '--force', '--layers', 'stages.[01].blocks.*.conv_dw') == 0
    assert [name.split('.')[1] for name in matrices()['convnext_atto.layers']] == ['0', '0', '1', '1']


def test_minibatches_are_not_of_the_order_of_a_folder(matrices, tmp_path):
    """Folders are sorted by class, and minibatches of one class each would show the similarity within classes.

    Two layers of a network tell dark images from bright ones alike, and the noise within a class is another for each of
    them: 0.999 over all images at once, and 0.171 over minibatches of one class.
    """
    rng = np.random.default_rng(0)
    for i in range(64):
        folder = tmp_path / 'sorted' / ('dark' if i < 32 else 'bright')
        folder.mkdir(parents=True, exist_ok=True)
        values = rng.integers(0, 60, (32, 32, 3), dtype=np.uint8) + (0 if i < 32 else 180)
        Image.fromarray(values.astype(np.uint8)).save(folder / f'{i:02}.png')
    found = []
    for size in (64, 8):
        options = ('--images', tmp_path / 'sorted', '--out', tmp_path / 'out', '--device', 'cpu', '--force')
        layers = ('--layers', 'conv1', 'global_pool', '--batch-size', size)
        assert main(['analyze', 'cka', *map(str, (*options, '--model', 'resnet18', *layers, '--size', 32))]) == 0
        found.append(matrices()['resnet18'][0, 1])
    assert found[1] == pytest.approx(found[0], abs=0.1)


def test_images_left_out_of_minibatches_are_reported(cka, capsys):
    assert cka('--model', DIGITS, '--batch-size', 4) == 0
    said = capsys.readouterr().out
    assert f'{DIGITS}: the last minibatch would be of fewer than 4 images, and is left out: 1.' in said


def test_a_layer_with_the_same_output_for_all_images(cka, monkeypatch, capsys):
    load = models.load_model

    def broken(*arguments, **options):
        model = load(*arguments, **options)
        torch.nn.init.zeros_(mixers(model)[1].out_proj.weight)
        return model

    monkeypatch.setattr(models, 'load_model', broken)
    assert cka('--model', DIGITS) == 0
    said = capsys.readouterr().out
    assert f'{DIGITS}: without similarity, as they give the same for all images: 2.0.' in said
    assert 'nan' not in said


class TestRefusals:
    @pytest.mark.parametrize(
        ('arguments', 'message'),
        [
            (('--model', 'convnext_atto'), 'convnext_atto is no network of mmsparx: name the modules to compare'),
            (
                ('--model', 'sparx_swin_tiny', '--features', 'scan'),
                '--features scan: sparx_swin_tiny has WindowAttention, which has no scan',
            ),
            (('--model', DIGITS, '--layers', 'stages.*'), f"--layers: 'stages.*' fits no module of {DIGITS}; they are"),
            (
                ('--model', DIGITS, '--layers', 'backbone.stem'),
                'expected at least two layers to compare, got backbone.st',
            ),
            (('--model', DIGITS, '--layers', 'backbone.stem', 'head.fc'), 'head.fc does not run where the network'),
            (('--model', DIGITS, '--count', '3'), 'expected at least 4 images in a minibatch, got 3 images in all'),
        ],
    )
    def test_is_a_sentence(self, cka, arguments, message, capsys):
        assert cka(*arguments) == 1
        said = capsys.readouterr()
        assert said.err.startswith('mmsparx: ')
        assert message in said.err
        assert said.out == ''

    def test_by_the_parser(self, cka, capsys):
        for arguments, message in (
            (('--batch-size', 3), 'expected at least 4, got 3'),
            (('--features', 'scan', '--layers', 'x'), 'not allowed with argument'),
        ):
            with pytest.raises(SystemExit):
                cka('--model', DIGITS, *arguments)
            assert message in capsys.readouterr().err
