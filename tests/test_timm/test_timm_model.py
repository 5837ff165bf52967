"""The published networks through timm."""

import argparse
from pathlib import Path

import pytest
import torch
from helpers import SMALL_ARCH, oracle_shapes, randomise, relative_error
from helpers.weights import assert_loaded, assert_unchanged, build_classifier, published_classifier, state_of

pytest.importorskip('timm', reason='its registry is what is tested')
import timm
from timm.data import resolve_model_data_config
from timm.models import save_for_hf
from timm.models._manipulate import group_parameters
from timm.optim import param_groups_weight_decay
from timm.utils import CheckpointSaver, ModelEmaV3, reparameterize_model

import mmsparx.timm  # noqa: F401  (registers them)
from mmsparx.models import SparXClassifier, SparXMamba, SparXSwin, VMamba
from mmsparx.models.architecture import Architecture
from mmsparx.timm.loading import match_checkpoint
from mmsparx.weights.names import convert_names

# Parameters, the file of the published weights, and the crop ratio of an image.
NAMES = {
    'sparx_mamba_tiny': (27_051_794, 'SparX/releases/download/v1/sparx_mamba_tiny_in1k.pth', 0.9),
    'sparx_mamba_small': (47_444_712, 'SparX/releases/download/v1/sparx_mamba_small_in1k.pth', 0.95),
    'sparx_mamba_base': (83_536_168, 'SparX/releases/download/v1/sparx_mamba_base_in1k.pth', 0.95),
    'sparx_swin_tiny': (26_439_780, None, 0.9),
    'sparx_swin_base': (87_400_250, None, 0.95),
    'vmamba_tiny': (30_705_832, 'download/%23v2cls/vssm_tiny_0230_ckpt_epoch_262.pth', 0.875),
    'vmamba_tiny_s1l8': (30_249_064, 'download/%23v2cls/vssm1_tiny_0230s_ckpt_epoch_264.pth', 0.875),
    'vmamba_small': (50_147_752, 'download/%23v2cls/vssm_small_0229_ckpt_epoch_222.pth', 0.875),
    'vmamba_base': (88_557_800, 'download/%23v2cls/vssm_base_0229_ckpt_epoch_237.pth', 0.875),
}
FAMILIES = {'sparx_mamba': SparXMamba, 'sparx_swin': SparXSwin, 'vmamba': VMamba}


def creator(monkeypatch, family):
    monkeypatch.setitem(FAMILIES[family].ARCHITECTURES, 'tiny', Architecture.of(SMALL_ARCH, {}))
    return lambda **options: timm.create_model(f'{family}_tiny', **{'num_classes': 5, **options})


@pytest.fixture
def create(monkeypatch):
    """`timm.create_model('sparx_mamba_tiny')`, of the small architecture and five classes."""
    return creator(monkeypatch, 'sparx_mamba')


@pytest.fixture(params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture
def create_any(monkeypatch, family):
    """`create` for each family."""
    return creator(monkeypatch, family)


@pytest.mark.parametrize('name', NAMES)
def test_a_network(name):
    parameters, url, crop = NAMES[name]
    model = timm.create_model(name, device='meta')
    assert sum(x.numel() for x in model.parameters()) == parameters
    assert (model.pretrained_cfg.get('url') or '').endswith(url or '')
    assert ('url' in model.pretrained_cfg) == (url is not None)
    assert resolve_model_data_config(model) == {
        'input_size': (3, 224, 224),
        'interpolation': 'bicubic',
        'mean': (0.485, 0.456, 0.406),
        'std': (0.229, 0.224, 0.225),
        'crop_pct': crop,
        'crop_mode': 'center',
    }
    for part in ('first_conv', 'classifier'):
        assert isinstance(model.get_submodule(model.pretrained_cfg[part]), torch.nn.Module)


def spared(model):
    """Names of parameters that timm's weight decay leaves out."""
    ours = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = param_groups_weight_decay(model, 0.05, no_weight_decay_list=model.no_weight_decay())
    return {ours[id(p)] for group in groups if group['weight_decay'] == 0 for p in group['params']}


@pytest.mark.parametrize('name', ['sparx_mamba_tiny', 'vmamba_tiny'])
def test_decay_as_in_the_published_runs(name):
    """SparX's runs were timm's; VMamba's rule is the same."""
    model = timm.create_model(name, device='meta')
    names = convert_names(model.state_dict(), 'published')
    shapes = oracle_shapes('t', 'vmamba_' if name.startswith('vmamba') else '')
    shapes = {k: shape for k, shape in shapes.items() if 'running' not in k and 'num_batches' not in k}
    expected = {k for k, shape in shapes.items() if len(shape) <= 1 or k.endswith('.bias')}
    assert {names[k] for k in spared(model)} == expected


def test_decay_as_in_swins_runs():
    """They leave out the tables of relative position biases as well."""
    model = timm.create_model('sparx_swin_tiny', device='meta')
    tables = {name for name, _ in model.named_parameters() if name.endswith('relative_position_bias_table')}
    assert len(tables) == 13
    flat = {name for name, p in model.named_parameters() if p.dim() <= 1 or name.endswith('.bias')}
    assert spared(model) == flat | tables


def test_they_are_listed():
    listed = {name for family in FAMILIES for name in timm.list_models(f'{family}*')}
    assert listed == set(NAMES) == {name for family in FAMILIES for name in timm.list_models(module=family)}
    published = {f'{name}.in1k' for name, (_, url, _) in NAMES.items() if url}
    assert published == {name for family in FAMILIES for name in timm.list_pretrained(f'{family}*')}


def test_where_no_weights_are_published(monkeypatch):
    create = creator(monkeypatch, 'sparx_swin')
    with pytest.raises(RuntimeError, match='No pretrained weights exist for sparx_swin_tiny'):
        create(pretrained=True)


def test_logits_and_names_are_those_of_the_classifier(create_any, family):
    model = create_any()
    backbone = FAMILIES[family](SMALL_ARCH, out_indices=(3,), output_norm=False)
    classifier = randomise(SparXClassifier(backbone, num_classes=5))
    model.load_state_dict(classifier.state_dict())  # strictly
    x = torch.randn(2, 3, 64, 64)
    expected = classifier.eval()(x)
    assert torch.equal(model.eval()(x), expected)
    features = model.forward_features(x)
    assert torch.equal(features, classifier.backbone(x)[0])
    assert torch.equal(model.get_classifier()(model.forward_head(features, pre_logits=True)), expected)


def test_options(create_any):
    model = create_any(num_classes=7, in_chans=1, drop_rate=0.3, drop_path_rate=0.2, with_cp=True)
    assert model(torch.randn(2, 1, 64, 64)).shape == (2, 7)
    assert model.head.drop.p == 0.3
    assert model.backbone.stages[-1].layers[-1].drop_path.rate == pytest.approx(0.2)
    assert model.backbone.stages[0].with_cp
    with pytest.raises(TypeError, match='drop_path_rat'):
        create_any(drop_path_rat=0.1)
    with pytest.raises(ValueError, match="expected 'avg', or '' for none, got 'max'"):
        create_any(global_pool='max')


def test_features(create_any):
    whole = randomise(create_any()).eval()
    x = torch.randn(1, 3, 70, 64)
    final, maps = whole.forward_intermediates(x)
    assert torch.equal(final, whole.forward_features(x))
    assert [y.shape[1] for y in maps] == [8, 16, 24, 32]
    assert [tuple(y.shape[2:]) for y in maps] == [(18, 16), (9, 8), (5, 4), (3, 2)]
    assert torch.equal(maps[-1], final)

    model = create_any(features_only=True)
    assert (model.feature_info.channels(), model.feature_info.reduction()) == ([8, 16, 24, 32], [4, 8, 16, 32])
    state = whole.backbone.state_dict()
    model.load_state_dict({f'model.backbone.{name}': value for name, value in state.items()})  # strictly: no head
    assert all(map(torch.equal, model.eval()(x), maps))


def test_pruned_features(create_any):
    """Parts after the last requested stage are removed, so that every parameter gets a gradient."""
    model = create_any(features_only=True, out_indices=(0, 2), in_chans=1)
    assert (model.feature_info.channels(), model.feature_info.reduction()) == ([8, 24], [4, 16])
    maps = model(torch.randn(2, 1, 64, 64))
    assert [tuple(y.shape) for y in maps] == [(2, 8, 16, 16), (2, 24, 4, 4)]
    sum(y.sum() for y in maps).backward()
    assert not [name for name, parameter in model.named_parameters() if parameter.grad is None]


def test_the_last_map_may_be_normalised(create_any):
    model = randomise(create_any()).eval()
    x = torch.randn(1, 3, 64, 64)
    maps = model.forward_intermediates(x, intermediates_only=True)
    normed = model.forward_intermediates(x, [0, -1], norm=True, intermediates_only=True)
    assert torch.equal(normed[0], maps[0])
    assert torch.equal(normed[1], model.head.norm(maps[3]))
    with pytest.raises(ValueError, match="expected 'NCHW', got 'NHWC'"):
        model.forward_intermediates(x, output_fmt='NHWC')


def test_another_classifier(create_any):
    model = randomise(create_any()).eval()
    x = torch.randn(2, 3, 64, 64)
    features = model.forward_head(model.forward_features(x), pre_logits=True)
    model.reset_classifier(3)
    assert (model.num_classes, model(x).shape) == (3, (2, 3))
    model.reset_classifier(0)
    assert torch.equal(model(x), features)
    model.reset_classifier(0, '')
    assert model(x).shape == (2, 32, 2, 2)
    model.reset_classifier(4)  # the pooling stays: none
    assert model(x).shape == (2, 4, 2, 2)
    assert not model.training
    model.double().reset_classifier(4)
    assert model.head.fc.weight.dtype == torch.float64


def test_gradient_checkpointing(create_any):
    model = randomise(create_any())
    x = torch.randn(2, 3, 64, 64)
    gradients = []
    for enable in (False, True):
        model.set_grad_checkpointing(enable)
        model.zero_grad()
        model(x).square().sum().backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
    assert all(stage.with_cp for stage in model.backbone.stages)
    assert all(map(torch.equal, *gradients))


def test_compiled_gradient_checkpointing(create):
    """timm's train.py does this for --grad-checkpointing --torchcompile."""
    model = randomise(create())
    x = torch.randn(2, 3, 64, 64)
    model(x).square().sum().backward()
    expected = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    model.set_grad_checkpointing()
    torch.compile(model, backend='aot_eager', fullgraph=True)(x).square().sum().backward()
    for parameter, gradient in zip(model.parameters(), expected, strict=True):
        assert relative_error(parameter.grad, gradient) < 1e-4


def test_layers_for_layer_wise_rates(create_any):
    model = create_any()
    depths = group_parameters(model, model.group_matcher(), reverse=True)
    assert depths.keys() == dict(model.named_parameters()).keys()
    assert depths['backbone.stem.0.weight'] == 0
    order = ['stages.0.layers.0', 'stages.1.downsample', 'stages.1.layers.0', 'stages.1.layers.1', 'stages.3.layers.0']
    found = [next(depth for name, depth in depths.items() if name.startswith(f'backbone.{part}')) for part in order]
    assert found == [1, 1, 2, 3, 7]
    assert (depths['head.norm.weight'], depths['head.fc.weight']) == (7, 8)


class TestPretrained:
    """The weights are a local file, in published names; downloads are loaded in the same way."""

    @pytest.fixture
    def pretrained(self, create, save):
        def load(content, **options):
            overlay = {'file': save(content)}
            return create(pretrained=True, pretrained_cfg_overlay=overlay, **options)

        return load

    def test_all_of_it(self, pretrained):
        published = published_classifier()
        model = pretrained(published)
        assert_loaded(model.backbone, published)
        assert torch.equal(model.head.fc.bias, published['classifier.3.bias'])

    def test_a_checkpoint_of_a_runner(self, pretrained):
        trained = randomise(build_classifier())
        model = pretrained({'state_dict': trained.state_dict(), 'meta': {}})
        assert all(torch.equal(x, model.state_dict()[name]) for name, x in trained.state_dict().items())

    @pytest.mark.parametrize('num_classes', [7, 0])
    def test_other_classes(self, pretrained, num_classes):
        published = published_classifier()
        model = pretrained(published, num_classes=num_classes)
        assert_loaded(model.backbone, published)
        assert torch.equal(model.head.norm.bias, published['classifier.0.bias'])
        assert model.num_classes == num_classes
        assert not num_classes or model.head.fc.bias.eq(0).all()

    def test_features(self, pretrained):
        published = published_classifier()
        model = pretrained(published, features_only=True, out_indices=(1, 2))
        state = state_of(model.model.backbone)
        assert state.keys() == state_of(SparXMamba(SMALL_ARCH, out_indices=(1, 2), output_norm=False)).keys()
        assert_loaded(model.model.backbone, published)

    def test_a_grey_image(self, pretrained):
        published = published_classifier()
        model = pretrained(published, in_chans=1)
        expected = published['patch_embed.0.weight'].sum(1, keepdim=True)
        torch.testing.assert_close(model.backbone.stem[0].weight, expected)
        assert torch.equal(model.head.fc.weight, published['classifier.3.weight'])

    def test_a_state_dict_in_memory(self, create):
        published = published_classifier()
        overlay = {'state_dict': published}
        model = create(pretrained=True, pretrained_cfg_overlay=overlay)
        assert_loaded(model.backbone, published)

    def test_a_file_that_does_not_match(self, pretrained):
        published = published_classifier()
        with pytest.raises(RuntimeError, match=r'1 MISSING in the file: backbone\.stem\.1\.weight'):
            pretrained({name: x for name, x in published.items() if name != 'patch_embed.1.weight'}, num_classes=7)
        with pytest.raises(RuntimeError, match=r'they begin with: layer1\.0'):
            pretrained({'layer1.0.conv1.weight': torch.zeros(1)})

    def test_a_hostile_file_does_not_run(self, pretrained, tmp_path):
        class Hostile:
            def __reduce__(self):
                return open, (str(tmp_path / 'mark'), 'w')

        with pytest.raises(RuntimeError, match=r'it asks to call io\.open'):
            pretrained({'state_dict': {}, 'extra': Hostile()})
        assert not (tmp_path / 'mark').exists()

    def test_messages_name_the_options_of_timm(self, pretrained):
        published = published_classifier()
        with pytest.raises(RuntimeError) as error:
            pretrained(published | {'patch_embed.0.weight': torch.zeros(4, 6, 3, 3)})
        assert 'Its stem takes images of 6 channels, and that of the model has in_chans=3.' in str(error.value)
        wider = randomise(SparXMamba(SMALL_ARCH | {'channels': (8, 16, 24, 36)}, output_norm=False)).state_dict()
        with pytest.raises(RuntimeError) as error:
            pretrained(wider)
        assert 'of another network; channels: 8, 16, 24, 36 in the file' in str(error.value)
        for ours in ('init_cfg', 'load_pretrained', 'may_differ', 'prefix=', 'adapt_channels', 'in_channels'):
            assert ours not in str(error.value)

    @pytest.mark.parametrize('names', ['ours', 'published'])
    @pytest.mark.parametrize(('name', 'other'), [('sparx_mamba_tiny', 'vmamba_small'), ('vmamba_tiny', 'vmamba_base')])
    def test_the_file_of_another_network(self, name, other, names):
        with torch.device('meta'):
            model, file = timm.create_model(name), timm.create_model(other)
        state = file.state_dict()
        if names == 'published':
            state = dict(zip(convert_names(state, names).values(), state.values(), strict=True))
        with pytest.raises(RuntimeError, match=rf"Build the model with timm\.create_model\('{other}'\)\."):
            match_checkpoint(state, model)

    def test_a_file_without_a_head(self, create, pretrained, save, tmp_path):
        """The file of a network of features (num_classes=0), and the one that `save_for_hf` writes of it."""
        headless = randomise(create(num_classes=0))
        save_for_hf(headless, tmp_path / 'hub', model_config={'num_classes': 0})
        (weights,) = (path for path in (tmp_path / 'hub').iterdir() if path.suffix in ('.safetensors', '.bin'))
        overlay = {'file': str(weights)}
        for model in (
            pretrained({'state_dict': headless.state_dict()}, num_classes=3),
            create(pretrained=True, pretrained_cfg_overlay=overlay, num_classes=3),
        ):
            assert model.head.fc.weight.shape == (3, 32)
            assert model.head.fc.bias.eq(0).all()
            model.reset_classifier(0)
            assert_unchanged(model, headless.state_dict())
        with pytest.raises(RuntimeError, match='Missing key'):
            timm.models.load_checkpoint(create(), str(weights))  # timm requires all weights, or strict=False


class TestTrainingCheckpoints:
    """Files that timm's own functions read and write."""

    @pytest.fixture
    def written(self, create, tmp_path):
        """A file of `timm.utils.CheckpointSaver`: arguments as a Namespace, the optimizer, an averaged model."""
        model = randomise(create())
        average = ModelEmaV3(model, decay=0.5)
        randomise(average.module, 1)
        optimizer = torch.optim.AdamW(model.parameters())
        args = argparse.Namespace(model='sparx_mamba_tiny', lr=0.1, classes=None, sizes=[1, (2, 3)])
        saver = CheckpointSaver(model, optimizer, args, average, checkpoint_dir=str(tmp_path))
        return model, average.module, saver.save_checkpoint(3, 50.0) and str(tmp_path / 'last.pth.tar')

    def test_from_published_names(self, create, save):
        published = published_classifier()
        model = create(checkpoint_path=save({'state_dict': published}))
        assert_loaded(model.backbone, published)

    def test_both_copies(self, create, written):
        plain, average, path = written
        for use_ema, expected in ((True, average), (False, plain)):
            model = create()
            timm.models.load_checkpoint(model, path, use_ema=use_ema)
            assert_unchanged(model, expected.state_dict())

    def test_a_resume(self, create, written):
        plain, _, path = written
        model = create()
        optimizer = torch.optim.AdamW(model.parameters())
        assert timm.models.resume_checkpoint(model, path, optimizer) == 4
        assert_unchanged(model, plain.state_dict())

    def test_starts_a_detector(self, written):
        """The backbone's `init_cfg` names the file."""
        _, average, path = written
        backbone = SparXMamba(SMALL_ARCH, init_cfg=dict(type='Pretrained', checkpoint=path))
        backbone.init_weights()
        inside = {name: x for name, x in backbone.state_dict().items() if not name.startswith('out_norms.')}
        assert all(torch.equal(x, average.backbone.state_dict()[name]) for name, x in inside.items())

    def test_damage_is_detected(self, create, written):
        _, average, path = written
        content = bytearray(Path(path).read_bytes())
        weight = average.head.fc.weight.detach().numpy().tobytes()
        content[content.index(weight)] ^= 1
        Path(path).write_bytes(content)
        for load in (timm.models.load_checkpoint, timm.models.resume_checkpoint):
            with pytest.raises(RuntimeError, match=r'last\.pth\.tar is damaged: the record '):
                load(create(), path)

    def test_other_models_are_left_to_timm(self, tmp_path):
        model = timm.create_model('resnet18', num_classes=2)
        torch.save({'state_dict': model.state_dict()}, tmp_path / 'x.pth')
        timm.models.load_checkpoint(model, str(tmp_path / 'x.pth'))
        with pytest.raises(FileNotFoundError):
            timm.models.load_checkpoint(model, str(tmp_path / 'nonesuch.pth'))


def test_reparameterize_model(create_any):
    """timm calls every module's method `fuse`, if it has one."""
    model = randomise(create_any()).eval()
    x = torch.randn(1, 3, 64, 64)
    assert torch.equal(reparameterize_model(model)(x), model(x))


@torch.no_grad()
def test_init_weights_resets_everything(create_any):
    model = create_any(device='meta').to_empty(device='cpu')
    for x in (*model.parameters(), *model.buffers()):
        x.fill_(torch.nan if x.is_floating_point() else 7)
    model.init_weights()
    fresh = create_any().state_dict()
    for name, x in model.state_dict().items():
        assert x.isfinite().all(), name
        if fresh[name].numel() == 1 or fresh[name].float().std() == 0:
            assert torch.equal(x, fresh[name]), name
    assert model.eval()(torch.randn(1, 3, 32, 32)).isfinite().all()
