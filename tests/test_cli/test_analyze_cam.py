"""`mmsparx analyze cam`: drawings for every task, messages and refusals."""

import sys

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip('mmpretrain', reason='a classifier is what is looked at')
pytest.importorskip('timm', reason='its models are asked for by name')
pytest.importorskip('pytorch_grad_cam', reason='the library that is used')
from helpers import randomise

from mmsparx.__main__ import main
from mmsparx.analysis.cam import class_activation
from mmsparx.cli import models
from mmsparx.cli.analyze.overlays import Overlay
from mmsparx.cli.analyze.subjects import class_index, prepare, score_of

DIGITS = 'sparx_mamba_mini_digits'
LAYER = 'backbone.stages.1'
DETECTOR, SEGMENTER = 'mask_rcnn_sparx_mini_overfit', 'fpn_sparx_mini_overfit'


@pytest.fixture
def cam(images, tmp_path):
    """Run the command on the images; returns the exit status."""

    def run(*arguments):
        options = ('--images', images, '--out', tmp_path / 'out', '--device', 'cpu')
        return main(['analyze', 'cam', *map(str, (*options, *arguments))])

    return run


def rows(text):
    return [[cell.strip() for cell in row.split('|')[1:-1]] for row in text.splitlines() if row.startswith('|')][2:]


class TestClassifier:
    def test_overlays(self, cam, images, save, tmp_path, capsys):
        classes = [f'digit {i}' for i in range(10)]
        state = randomise(models.load_model(DIGITS, device='cpu').module).state_dict()
        path = save(dict(state_dict=state, meta=dict(dataset_meta=dict(classes=classes))))
        assert cam('--model', DIGITS, path, '--layer', LAYER) == 0
        out, said = tmp_path / 'out', capsys.readouterr().out
        names = ['0', '1', '2', '3', 'deep/4']
        files = {path.relative_to(out).as_posix() for path in out.rglob('*.*')}
        assert files == {'cam.png', 'cam.md', *(f'overlays/{name}.png' for name in names)}
        model = models.load_model(DIGITS, path, device='cpu')
        module = model.module.requires_grad_(False)
        for name, (file, label, score) in zip(names, rows(said), strict=True):
            subject = prepare(model, images / f'{name}.png')
            probabilities = module(subject.x)[0].softmax(0)
            best = probabilities.argmax().item()
            assert (file, label, score) == (f'{name}.png', classes[best], f'probability {probabilities[best]:.2g}')
            activation = class_activation(
                module, module.backbone.stages[1], subject.x, lambda x, best=best: module(x)[0, best]
            )
            with Image.open(out / 'overlays' / f'{name}.png') as overlay:
                assert np.array_equal(np.asarray(overlay), Overlay('', '', subject.image, activation).blended)
        assert f'{DIGITS}: weights of weights.pth. Layer: {LAYER}.' in said
        assert '1 image cannot be read and was passed over: broken.jpg.' in said
        with Image.open(out / 'cam.png') as sheet:
            assert min(sheet.size) > 300

    def test_a_class_by_its_number(self, cam, capsys):
        assert cam('--model', DIGITS, '--layer', LAYER, '--class', 7, '--count', 2) == 0
        assert {row[1] for row in rows(capsys.readouterr().out)} == {'class 7'}

    @pytest.mark.parametrize(
        ('name', 'layer'),
        [
            ('swin_tiny_patch4_window7_224', 'layers.3'),  # channels last
            ('vit_tiny_patch16_224', 'blocks.11.norm1'),  # tokens, one of which has no place
            ('resnet18', 'layer4'),
        ],
    )
    def test_of_timm(self, cam, name, layer, tmp_path, capsys):
        assert cam('--model', name, '--count', 1) == 0
        assert f'Layer: {layer}.' in capsys.readouterr().out
        (overlay,) = (tmp_path / 'out/overlays').rglob('*.png')
        with Image.open(overlay) as drawn:
            assert drawn.size == (224, 224)


class TestDensePrediction:
    @pytest.fixture
    def detector(self, monkeypatch):
        """An untrained detector whose detections have scores of all sizes."""
        pytest.importorskip('mmdet')
        load = models.load_model

        def randomised(*arguments, **options):
            model = load(*arguments, **options)
            randomise(model.module)
            return model

        monkeypatch.setattr(models, 'load_model', randomised)
        return models.load_model(DETECTOR, device='cpu')

    def test_a_detector_sums_the_scores_of_a_class(self, detector, images):
        detector.module.requires_grad_(False)
        subject = prepare(detector, images / '3.png')  # 100 x 50: it is padded
        assert subject.x.shape[2:] == (160, 320)
        assert subject.image.shape == (160, 320, 3)
        found = detector.module(subject.x, subject.samples, mode='predict')[0].pred_instances
        label, threshold = found.labels[0].item(), found.scores.median().item()
        score = score_of(detector, subject, label, threshold)
        chosen = found.scores[(found.labels == label) & (found.scores > threshold)]
        value = score.function(subject.x.requires_grad_())
        assert value.item() == pytest.approx(chosen.sum().item(), rel=1e-5)
        assert score.text == f'{len(chosen)} detection{"s" if len(chosen) > 1 else ""}, best {chosen.max():.2f}'
        assert torch.autograd.grad(value, subject.x)[0].abs().sum() > 0
        best = score_of(detector, prepare(detector, images / '3.png'), None, 0.0)
        assert best.label == found.labels[found.scores.argmax()]
        absent = next(i for i in range(80) if i not in found.labels)
        assert score_of(detector, prepare(detector, images / '3.png'), absent, 0.0) is None

    def test_a_detector_by_the_command(self, detector, cam, tmp_path, capsys):
        assert cam('--model', DETECTOR, '--score-thr', 0, '--count', 2) == 0
        table = rows(capsys.readouterr().out)
        assert all(row[1] in detector.classes and 'detection' in row[2] for row in table)
        assert len(list((tmp_path / 'out/overlays').rglob('*.png'))) == 2
        assert cam('--model', DETECTOR, '--score-thr', 1, '--force') == 0
        said = capsys.readouterr().out
        assert {tuple(row[1:]) for row in rows(said)} == {('-', 'nothing seen')}
        assert 'Nothing is seen in any image, and no overlay is written.' in said

    def test_a_segmenter_sums_the_logits_of_its_pixels(self, images):
        pytest.importorskip('mmseg')
        model = models.load_model(SEGMENTER, device='cpu')
        randomise(model.module).requires_grad_(False)
        assert model.classes[0] == 'wall'
        subject = prepare(model, images / '1.png')
        logits = model.module.encode_decode(subject.x, [subject.samples[0].metainfo])[0]
        labels = logits.argmax(0)
        height, width = subject.image.shape[:2]
        most = labels[:height, :width].flatten().bincount().argmax().item()
        score = score_of(model, subject, None, 0)
        assert score.label == most
        assert score.function(subject.x).item() == pytest.approx(logits[most][labels == most].sum().item(), rel=1e-4)
        share = (labels[:height, :width] == most).float().mean().item()
        assert score.text == f'{share:.0%} of the image'
        absent = next(i for i in range(150) if not (labels == i).any())
        assert score_of(model, subject, absent, 0) is None

    def test_a_segmenter_by_the_command(self, cam, tmp_path, capsys):
        pytest.importorskip('mmseg')
        assert cam('--model', SEGMENTER, '--count', 1, '--layer', 'backbone.stages.2.layers.2') == 0
        (row,) = rows(capsys.readouterr().out)
        assert row[2].endswith('of the image')
        assert len(list((tmp_path / 'out/overlays').rglob('*.png'))) == 1


class TestFeatures:
    def test_a_figure_for_each_image(self, cam, tmp_path, capsys, monkeypatch):
        monkeypatch.setitem(sys.modules, 'mmsparx.analysis.cam', None)  # the command does not need it
        assert cam('--model', DIGITS, '--features', '--channels', 3) == 0
        out = tmp_path / 'out'
        files = {path.relative_to(out).as_posix() for path in out.rglob('*.*')}
        assert files == {f'features/{name}.png' for name in ('0', '1', '2', '3', 'deep/4')}
        assert f'Figures of 5 images are written to {out / "features"}.\n1 image cannot' in capsys.readouterr().out
        assert cam('--model', DIGITS, '--features') == 1
        assert 'holds features already' in capsys.readouterr().err

    def test_the_channels_are_those_of_the_largest_means(self):
        from mmsparx.cli.analyze.overlays import _largest

        y = torch.arange(5.0).reshape(5, 1, 1).repeat(1, 2, 3) * torch.tensor([1, -1, 1, 1, -1]).reshape(5, 1, 1)
        mean, channels = _largest(y, 2)
        assert torch.equal(mean, y.mean(0))
        assert [channel for channel, _ in channels] == [3, 2]
        assert torch.equal(channels[0][1], y[3])


class TestImagesThatOpenCVCannotResize:
    @pytest.fixture(autouse=True)
    def line(self, images):
        """An image of 1 row, of which a test pipeline that keeps the ratio leaves no row."""
        pytest.importorskip('mmseg')
        Image.new('RGB', (10000, 1)).save(images / 'line.png')

    @pytest.mark.parametrize('options', [(), ('--features',)])
    def test_are_passed_over_and_named(self, options, cam, images, tmp_path, capsys):
        for i in range(1, 5):
            next(images.rglob(f'{i}.png')).unlink()
        assert cam('--model', SEGMENTER, *options) == 0
        assert '1 image cannot be resized by OpenCV and was passed over: line.png.' in capsys.readouterr().out
        folder = tmp_path / 'out' / ('features' if options else 'overlays')
        assert [path.name for path in folder.iterdir()] == ['0.png']

    def test_are_refused_if_there_are_no_others(self, cam, images, capsys):
        for path in (*images.rglob('[0-4].png'),):
            path.unlink()
        assert cam('--model', SEGMENTER) == 1
        assert '--images: OpenCV can resize none of the 1 images, such as line.png' in capsys.readouterr().err


class TestRefusals:
    @pytest.mark.parametrize(
        ('arguments', 'message'),
        [
            (('--model', DIGITS), 'the layer gives a map of one position, which shows no place; choose an earlier one'),
            (('--model', DIGITS), '. The stages are backbone.stages.0, backbone.stages.1, backbone.stages.2, '),
            (('--model', DIGITS, '--layer', 'stages.1'), f"--layer: {DIGITS} has no module 'stages.1'; nearest: "),
            (('--model', DIGITS, '--layer', LAYER, '--class', '10'), f'--class: {DIGITS} has classes 0 to 9, got 10'),
            (('--model', DIGITS, '--layer', LAYER, '--class', 'cat'), f"--class: {DIGITS} has no class 'cat'; its"),
            (('--model', DIGITS, '--model', DIGITS), '--model: expected one model, got 2'),
        ],
    )
    def test_is_a_sentence(self, cam, arguments, message, capsys):
        assert cam(*arguments) == 1
        said = capsys.readouterr()
        assert said.err.startswith('mmsparx: ')
        assert message in said.err

    def test_a_class_with_its_nearest_names(self):
        pytest.importorskip('mmseg')
        model = models.load_model(SEGMENTER, device='cpu')
        assert class_index(model, 'sky') == class_index(model, '2') == 2
        with pytest.raises(ValueError, match=r"no class 'wal'; it has 150 classes, which count from 0; nearest: wall"):
            class_index(model, 'wal')
        with pytest.raises(ValueError, match=r"no class '150'"):
            class_index(model, '150')
