"""Models by name: the networks, their weights and their descriptions."""

import sys

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip('mmpretrain', reason='a classifier is what is built')
pytest.importorskip('timm', reason='its models are asked for by name')
import timm
from helpers import relative_error
from mmengine.dataset import Compose, pseudo_collate
from timm.data import create_transform, resolve_model_data_config

from mmsparx.cli import models
from mmsparx.cli.models import load_model, load_models

DIGITS = 'sparx_mamba_mini_digits'


def noise(height, width, seed=0):
    values = np.random.default_rng(seed).integers(0, 255, (height // 4, width // 4, 3), dtype=np.uint8)
    return Image.fromarray(values).resize((width, height), Image.Resampling.BICUBIC)


class TestStages:
    @pytest.mark.parametrize('name', [DIGITS, 'mask_rcnn_sparx_mini_overfit', 'fpn_sparx_mini_overfit'])
    def test_of_a_config_are_before_any_output_norm(self, name):
        """Dense models have output norms, whose values would show in the outputs."""
        if name != DIGITS:
            pytest.importorskip('mmdet' if 'rcnn' in name else 'mmseg')
        model = load_model(name, device='cpu')
        backbone = model.module.backbone
        for norm in backbone.out_norms.values():
            torch.nn.init.constant_(norm.bias, 7.0)
        x = torch.randn(1, 3, 64, 48)
        with torch.no_grad():
            maps, expected = model.stages(x), [backbone.stem(x)]
            for stage in backbone.stages:
                expected.append(stage(expected[-1]))
        assert [tuple(y.shape) for y in maps] == [(1, 32, 16, 12), (1, 64, 8, 6), (1, 96, 4, 3), (1, 128, 2, 2)]
        assert all(torch.equal(a, b) for a, b in zip(maps, expected[1:], strict=True))
        assert [name for name, _ in model.stage_modules] == [f'backbone.stages.{i}' for i in range(4)]
        assert not any(len(stage._forward_hooks) for stage in backbone.stages)

    @pytest.mark.parametrize(
        ('name', 'shapes', 'first'),
        [
            ('convnext_atto', [(40, 16), (80, 8), (160, 4), (320, 2)], 'stages.0'),
            ('resnet18', [(64, 16), (128, 8), (256, 4), (512, 2)], 'layer1'),  # without the stem's level
            ('vit_tiny_patch16_224', [(192, 4)] * 12, 'blocks.0'),
        ],
    )
    def test_of_a_model_of_timm(self, name, shapes, first):
        model = load_model(name, device='cpu').at_size(64)
        with torch.no_grad():
            maps = model.stages(torch.randn(1, 3, 64, 64))
        assert [tuple(y.shape) for y in maps] == [(1, channels, side, side) for channels, side in shapes]
        assert model.stage_modules[0][0] == first

    def test_of_something_else(self, tmp_path):
        config = tmp_path / 'resnet.py'
        config.write_text("_base_ = 'mmpretrain::resnet/resnet18_8xb16_cifar10.py'\n")
        model = load_model(str(config), device='cpu')
        with pytest.raises(ValueError, match=r'expected a size \(--size\)'):
            model.preprocessing(noise(32, 32))
        assert model.at_size(32).preprocessing(noise(40, 60)).shape == (3, 32, 32)
        with pytest.raises(ValueError, match='resnet: expected a model over a network of mmsparx, or one of timm'):
            model.stages(torch.zeros(1, 3, 32, 32))


class TestWeights:
    def test_random_ones_are_of_the_seed_and_of_nothing_else(self):
        torch.manual_seed(5)
        models = [load_model(DIGITS, seed=seed, device='cpu') for seed in (1, 1, 2)]
        drawn = torch.rand(1)
        weights = [torch.cat([p.flatten() for p in model.module.parameters()]) for model in models]
        assert torch.equal(weights[0], weights[1])
        assert not torch.equal(weights[0], weights[2])
        torch.manual_seed(5)
        assert torch.equal(drawn, torch.rand(1))
        assert models[2].is_random
        assert models[2].weights == 'random weights (seed 2)'
        assert not models[0].module.training

    def test_of_a_checkpoint_with_the_classes_that_it_names(self, save, capsys):
        classes = [f'digit {i}' for i in range(10)]
        state = load_model(DIGITS, seed=3, device='cpu').module.state_dict()
        path = save(dict(state_dict=state, meta=dict(dataset_meta=dict(classes=classes))))
        model = load_model(DIGITS, path, seed=4, device='cpu')
        assert all(torch.equal(x, state[name]) for name, x in model.module.state_dict().items())
        assert (model.weights, model.is_random) == ('weights of weights.pth', False)
        assert model.classes == tuple(classes)
        assert capsys.readouterr().out == ''

    def test_that_do_not_match_are_refused(self, save):
        state = load_model(DIGITS, device='cpu').module.state_dict()
        del state['backbone.stages.0.layers.0.norm1.weight']
        with pytest.raises(RuntimeError, match=r'backbone\.stages\.0\.layers\.0\.norm1\.weight'):
            load_model(DIGITS, save(state), device='cpu')

    @pytest.mark.parametrize('name', ['resnet18', 'sparx_mamba_tiny'])
    def test_of_other_classes_for_a_model_of_timm(self, name, save):
        state = timm.create_model(name, num_classes=7).state_dict()
        model = load_model(name, save(state), device='cpu')
        assert model.module.get_classifier().out_features == 7
        assert all(torch.equal(x, state[key]) for key, x in model.module.state_dict().items())

    def test_that_a_config_says_are_published(self, monkeypatch):
        asked = []

        def read(source):
            asked.append(source)
            raise RuntimeError('it is not available')

        monkeypatch.setattr(models, 'read_weights', read)
        with pytest.raises(RuntimeError, match='it is not available'):
            load_model('vmamba_t_in1k', 'published', device='cpu')
        (address,) = asked
        assert address.endswith('vssm_tiny_0230_ckpt_epoch_262.pth')

    @pytest.mark.parametrize('name', ['sparx_swin_tiny', 'sparx_swin_t_in1k', 'fpn_sparx_t_80k'])
    def test_that_are_not_published(self, name):
        with pytest.raises(ValueError, match=r'published; name a checkpoint'):
            load_model(name, 'published', device='cpu')


class TestPreprocessing:
    def test_of_timm_is_that_of_timm(self):
        """The image is higher than wide and has odd sides."""
        image = noise(301, 263)
        for name in ('sparx_mamba_tiny', 'vit_tiny_patch16_224'):
            model = load_model(name, device='cpu')
            transform = create_transform(**resolve_model_data_config(model.module))
            assert relative_error(model.preprocessing(image), transform(image)) < 1e-6

    @pytest.mark.parametrize('name', ['sparx_mamba_t_in1k', DIGITS])
    def test_of_a_classification_config_is_that_of_its_pipeline(self, name, tmp_path):
        """The image is smooth, since OpenCV, which resizes digits, does not smooth images that it shrinks."""
        image = noise(12, 16).resize((301, 263), Image.Resampling.BICUBIC)
        image.save(tmp_path / 'image.png')
        model = load_model(name, device='cpu')
        with model.scope():
            packed = Compose(model.config.test_dataloader.dataset.pipeline)({'img_path': str(tmp_path / 'image.png')})
        expected = model.module.data_preprocessor(pseudo_collate([packed]))['inputs'][0]
        x = model.preprocessing(image)
        assert relative_error(x, expected) < 0.02
        assert np.array_equal(model.preprocessing.shown(x), np.asarray(model.preprocessing.resize(image)))

    def test_of_a_detector_in_the_order_of_its_channels(self):
        pytest.importorskip('mmdet')
        model = load_model('mask_rcnn_sparx_mini_overfit', device='cpu')
        assert model.preprocessing.size == (256, 256)
        image = noise(300, 400)
        crop = torch.from_numpy(np.asarray(model.preprocessing.resize(image)).copy()).permute(2, 0, 1)
        expected = model.module.data_preprocessor({'inputs': [crop.flip(0)]})['inputs'][0]  # BGR, as mmcv reads it
        assert relative_error(model.preprocessing(image), expected) < 1e-6

    def test_at_another_size_keeps_the_crop_ratio(self):
        model = load_model('sparx_mamba_tiny', device='cpu').at_size(96)
        resized = model.preprocessing.resize(Image.new('RGB', (1060, 2120)))
        assert resized.size == (96, 96)
        # The short side becomes 96 / 0.9, rounded down: 106, and 5 pixels are cut off at either end.
        steps = Image.fromarray(np.tile(np.repeat(np.arange(106, dtype=np.uint8), 10), (1060, 1)))
        assert np.asarray(model.preprocessing.resize(steps))[0, [0, -1]].tolist() == [5, 100]

    def test_of_a_long_image_without_the_part_cropped_away(self, monkeypatch):
        """The result is that of a part, and only it is resized: 1 row would become 248 rows of 2,480,000 pixels."""
        model = load_model('sparx_mamba_tiny', device='cpu')
        image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (1, 10000, 3), dtype=np.uint8))
        made, resize = [], Image.Image.resize

        def recorded(image, size, *arguments, **options):
            made.append(tuple(size))
            return resize(image, size, *arguments, **options)

        monkeypatch.setattr(Image.Image, 'resize', recorded)
        found = np.asarray(model.preprocessing.resize(image)).astype(int)
        assert made == [(224, 224)]
        part = image.crop((4995, 0, 5005, 1))
        assert np.abs(found - np.asarray(model.preprocessing.resize(part))).max() <= 2

    @pytest.mark.parametrize('side', [1, 7])
    def test_a_size_that_the_model_does_not_take(self, side):
        model = load_model('vit_tiny_patch16_224', device='cpu')
        with pytest.raises(ValueError, match=f'vit_tiny_patch16_224 does not take images of {side}x{side}: '):
            model.at_size(side)

    def test_a_size_that_pillow_refuses(self):
        model = load_model('resnet18', device='cpu').at_size(20000)
        with pytest.raises(ValueError, match='images of 20000x20000 are too large; Pillow makes up to '):
            model.preprocessing.check()


class TestNames:
    def test_without_timm(self, monkeypatch):
        monkeypatch.setitem(sys.modules, 'timm', None)
        with pytest.raises(ValueError, match=r"no model 'resnet18': .*timm is not installed: pip install"):
            load_model('resnet18')

    def test_without_the_library_of_a_config(self, monkeypatch):
        monkeypatch.setitem(sys.modules, 'mmseg', None)
        with pytest.raises(ModuleNotFoundError, match='mmseg'):
            load_model('fpn_sparx_mini_overfit')

    def test_that_are_unknown(self):
        with pytest.raises(ValueError, match=r"no model 'sparx_mamba_tinny': expected .*; nearest: sparx_mamba_tiny"):
            load_model('sparx_mamba_tinny')
        with pytest.raises(ValueError, match=r"no model 'none\.py': expected a config file"):
            load_model('none.py')

    def test_labels(self):
        models = load_models([[DIGITS], ['resnet18']], seed=1, device='cpu')
        assert [model.label for model in models] == [DIGITS, 'resnet18']
        models = load_models([[DIGITS], ['resnet18']], ['ours', 'theirs'], device='cpu')
        assert [model.label for model in models] == ['ours', 'theirs']

    def test_one_model_with_several_weights(self, save):
        path = save(load_model(DIGITS, device='cpu').module.state_dict(), 'epoch_3.pth')
        models = load_models([[DIGITS], [DIGITS, path]], device='cpu')
        assert [model.label for model in models] == [f'{DIGITS}, random', f'{DIGITS}, epoch_3']

    @pytest.mark.parametrize(
        ('given', 'labels', 'message'),
        [
            ([['a', 'b', 'c']], None, r'--model: expected NAME or NAME CHECKPOINT, got a b c; repeat --model'),
            ([['a'], ['b']], ['x'], r'--labels: expected one for each of the 2 models, got 1'),
            ([['a'], ['a']], None, r'expected different names for the models, got a, random, a, random'),
        ],
    )
    def test_that_are_ambiguous(self, given, labels, message):
        with pytest.raises(ValueError, match=message):
            load_models(given, labels)
