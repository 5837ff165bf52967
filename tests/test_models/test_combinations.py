"""Every style with every token mixer and every aggregator: sizes, training, options."""

import copy
import itertools
import math

import pytest
import torch
from helpers import SMALL_ARCH, randomise, relative_error
from helpers.networks import TWO_STAGES
from mmengine.model import ExponentialMovingAverage
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from mmsparx.layers.norm import BatchNorm
from mmsparx.models import SparXClassifier, SparXMamba, SparXNet
from mmsparx.models.style import STYLES

# Ganglion layers read the input, normal layers and earlier ganglion layers; 2C and C are no multiples of 3.
ARCH = {
    'channels': (24, 32, 48, 64),
    'stages': [
        {'depth': 1},
        {'depth': 2, 'stride': 1, 'first': 1},
        {'depth': 3, 'stride': 2, 'window': 2, 'input_in_window': True},
        {'depth': 2, 'stride': 1, 'dense': True},
    ],
}
PLAIN = {**ARCH, 'stages': [{'depth': 1}, {'depth': 2}, {'depth': 3}, {'depth': 2}]}
SIZE = (33, 47)
MIXERS = {
    'SS2D': {'type': 'SS2D'},
    'VMamba': {'type': 'SS2D', 'kernel_size': 3, 'conv_bias': False, 'proj_bias': False, 'norm': 'LN2d', 'expand': 1},
    'SSM': {'type': 'SSM', 'state_size': 4},
    'BiSSM': {'type': 'BiSSM', 'state_size': 4},
    'WindowAttention': {'type': 'WindowAttention', 'window_size': 3, 'head_dim': 8},
}
AGGREGATORS = {
    'DMCA': {'type': 'DMCA', 'learnable_scale': True},
    'w/o shortcut': {'type': 'DMCA', 'shortcut': False},
    'Concat': {'type': 'Concat'},
    'NoAttention': {'type': 'NoAttention'},
    'SRA': {'type': 'SRA'},
    'SCA': {'type': 'SCA'},
    'own tokens': {'type': 'SCA', 'own_tokens': True},
}
COMBINATIONS = list(itertools.product(STYLES, MIXERS, AGGREGATORS))
# Each style, mixer and aggregator occurs at least once; these are for the slower tests.
SOME = [
    (*pair, aggregator)
    for pair, aggregator in zip(
        [
            ('sparx', 'SS2D'),
            ('vmamba', 'VMamba'),
            ('vmamba', 'SSM'),
            ('vmamba', 'BiSSM'),
            ('swin', 'WindowAttention'),
            ('swin', 'SS2D'),
            ('sparx', 'WindowAttention'),
        ],
        AGGREGATORS,
        strict=True,
    )
]


def build(style, mixer, aggregator, arch=ARCH, **options):
    return SparXNet(arch, style=style, token_mixer=MIXERS[mixer], aggregator=AGGREGATORS[aggregator], **options)


def train_step(model, x, seed=0):
    """Outputs, input gradient and parameter gradients of one step with every output in the loss."""
    model.zero_grad()
    torch.manual_seed(seed)
    x = x.clone().requires_grad_()
    outs = model(x)
    generator = torch.Generator().manual_seed(1)
    sum((out.float() * torch.randn(out.shape, generator=generator)).sum() for out in outs).backward()
    return outs, {'input': x.grad, **{name: p.grad for name, p in model.named_parameters()}}


@pytest.mark.parametrize(('style', 'mixer', 'aggregator'), COMBINATIONS)
def test_trains_at_odd_sizes(style, mixer, aggregator):
    outs, gradients = train_step(build(style, mixer, aggregator), torch.randn(2, 3, *SIZE))
    for i, out in enumerate(outs):
        assert out.shape == (2, ARCH['channels'][i], *(math.ceil(side / (4 * 2**i)) for side in SIZE))
        assert out.isfinite().all()
        assert out.is_contiguous()
    for name, gradient in gradients.items():
        assert gradient is not None, name
        assert gradient.isfinite().all(), name
        assert gradient.any(), name


@pytest.fixture(scope='module')
def digits():
    """Images (N, 3, 32, 32) and labels (N,) of scikit-learn's handwritten digits."""
    datasets = pytest.importorskip('sklearn.datasets', reason='the digits are those of scikit-learn')
    images, labels = datasets.load_digits(return_X_y=True)
    images = torch.tensor(images, dtype=torch.float).view(-1, 1, 8, 8) / 8 - 1
    return nn.functional.interpolate(images, size=32, mode='bicubic').expand(-1, 3, -1, -1), torch.tensor(labels)


@pytest.mark.parametrize(('style', 'mixer', 'aggregator'), SOME)
def test_learns_digits(style, mixer, aggregator, digits):
    """Within 25 steps, in which no image occurs twice, the loss falls below half of the first."""
    images, labels = digits
    steps, batch = 25, 32
    arch = {**SMALL_ARCH, 'channels': (16, 32, 48, 64)}
    backbone = build(style, mixer, aggregator, arch, out_indices=(3,), output_norm=False)
    model = SparXClassifier(backbone, num_classes=10).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3, fused=True)
    warm_up = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.2, total_iters=4)
    losses = []
    for chosen in torch.randperm(len(labels))[: steps * batch].view(steps, batch):
        loss = nn.functional.cross_entropy(model(images[chosen]), labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        warm_up.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) / 5 < losses[0] / 2


@pytest.mark.parametrize(('style', 'mixer', 'aggregator'), SOME)
@pytest.mark.parametrize('size', [(1, 1), (1, 9), (5, 2)], ids=str)
def test_tiny_images(style, mixer, aggregator, size):
    model = build(style, mixer, aggregator)
    x = torch.randn(2, 3, *size)
    assert all(out.isfinite().all() for out in train_step(model, x)[0])
    outs = model.eval()(x)
    assert [tuple(out.shape[2:]) for out in outs] == [
        tuple(math.ceil(side / (4 * 2**i)) for side in size) for i in range(4)
    ]


@pytest.mark.parametrize(('style', 'mixer', 'aggregator'), SOME)
def test_one_small_image_trains_or_is_refused_clearly(style, mixer, aggregator):
    """A batch norm needs two values; where no batch norm sees a single one, nothing is refused."""
    model = build(style, mixer, aggregator)
    stride = model.largest_stride
    norms = any(isinstance(m, BatchNorm) for m in model.modules())
    assert (stride > 0) == norms
    assert all(out.isfinite().all() for out in model(torch.randn(1, 3, stride + 1, stride + 1)))
    if norms:
        with pytest.raises(ValueError, match=rf'in a batch of 1 is reduced to a 1x1 map \(stride {stride}\)'):
            model(torch.randn(1, 3, stride, stride))


@pytest.mark.parametrize(('style', 'mixer', 'aggregator'), SOME)
def test_checkpointing_changes_nothing(style, mixer, aggregator):
    plain = randomise(build(style, mixer, aggregator, drop_path_rate=0.5))
    checkpointed = build(style, mixer, aggregator, drop_path_rate=0.5, with_cp=True)
    checkpointed.load_state_dict(plain.state_dict())
    x = torch.randn(2, 3, *SIZE)
    (outs, gradients), (outs_cp, gradients_cp) = (train_step(model, x) for model in (plain, checkpointed))
    assert all(torch.equal(a, b) for a, b in zip(outs_cp, outs, strict=True))
    assert all(torch.equal(gradients_cp[name], gradient) for name, gradient in gradients.items())
    assert all(torch.equal(x, checkpointed.state_dict()[name]) for name, x in plain.state_dict().items())


@pytest.mark.parametrize(('style', 'mixer', 'aggregator'), SOME)
def test_frozen_stages_and_norm_eval(style, mixer, aggregator):
    model = build(style, mixer, aggregator, frozen_stages=2, norm_eval=True)
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 0.1)
    _, gradients = train_step(model, torch.randn(2, 3, *SIZE))
    optimizer.step()
    for name, x in model.state_dict().items():
        frozen = name.startswith(('stem.', 'stages.0.', 'stages.1.', 'stages.2.downsample.'))
        statistics = name.rpartition('.')[2] in ('running_mean', 'running_var', 'num_batches_tracked')
        assert torch.equal(x, before[name]) == (frozen or statistics), name
        if name in gradients:
            assert (gradients[name] is None) == frozen, name


@pytest.mark.parametrize(('style', 'mixer', 'aggregator'), SOME)
@pytest.mark.parametrize('indices', [(0,), (1, 3)], ids=str)
def test_out_indices(style, mixer, aggregator, indices):
    model, whole = build(style, mixer, aggregator, out_indices=indices), build(style, mixer, aggregator)
    missing, _ = model.load_state_dict(whole.state_dict(), strict=False)
    assert not missing
    assert len(model.stages) == max(indices) + 1
    x = torch.randn(1, 3, *SIZE)
    expected = whole.eval()(x)
    assert all(torch.equal(out, expected[i]) for i, out in zip(indices, model.eval()(x), strict=True))


@pytest.mark.parametrize(('style', 'mixer', 'aggregator'), SOME)
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_autocast(style, mixer, aggregator, dtype):
    model, x = randomise(build(style, mixer, aggregator)), torch.randn(2, 3, *SIZE)
    expected = model.eval()(x)
    with torch.autocast('cpu', dtype):
        outs = model(x)
        trained, gradients = train_step(model.train(), x)
    # Some seventy roundings of 2^-9 or 2^-12.
    tolerance = 2e-1 if dtype == torch.bfloat16 else 3e-2
    assert all(relative_error(out, y) < tolerance for out, y in zip(outs, expected, strict=True))
    assert all(out.isfinite().all() for out in trained)
    assert all(g.isfinite().all() and g.dtype == torch.float32 for g in gradients.values())


@pytest.mark.parametrize(('style', 'mixer', 'aggregator'), SOME)
def test_float64_stays_float64(style, mixer, aggregator):
    model = build(style, mixer, aggregator).double()
    outs = model(torch.randn(2, 3, *SIZE, dtype=torch.float64))
    assert {out.dtype for out in outs} == {torch.float64}


@pytest.mark.parametrize(
    ('style', 'mixer', 'aggregator'),
    [('swin', 'WindowAttention', 'SRA'), ('vmamba', 'BiSSM', 'own tokens')],
)
def test_compiles_to_one_graph(style, mixer, aggregator):
    torch._dynamo.reset()
    arch = {'channels': (24, 32), 'stages': [{'depth': 1}, {'depth': 2, 'stride': 1, 'first': 1}]}
    model = randomise(build(style, mixer, aggregator, arch, out_indices=(0, 1)))
    x = torch.randn(2, 3, *SIZE)
    expected = copy.deepcopy(model)(x)
    outs = torch.compile(model, fullgraph=True, backend='aot_eager')(x)
    assert all(relative_error(a, b) < 1e-6 for a, b in zip(outs, expected, strict=True))


@pytest.mark.parametrize('aggregator', AGGREGATORS)
@pytest.mark.parametrize(('style', 'mixer'), [('sparx', 'SS2D'), ('vmamba', 'SSM'), ('swin', 'WindowAttention')])
def test_without_the_aggregators_effect_it_is_a_plain_network(style, mixer, aggregator):
    """If the modules after the aggregator in its layer have zero weights, the layer is only its feed-forward.

    So is a layer of the plain network with the same weights and zeros there, and all sources are without effect.
    """
    model = randomise(build(style, mixer, aggregator)).double().eval()
    plain = build(style, mixer, aggregator, PLAIN).double().eval()
    with torch.no_grad():
        for stage, unwired in zip(model.stages, plain.stages, strict=True):
            for i in stage.plan.ganglia:
                for part in (stage, unwired):
                    output = part.layers[i].mixer
                    output = output.proj if mixer == 'WindowAttention' else output.out_proj
                    for parameter in output.parameters():
                        parameter.zero_()
        shared = {name: x for name, x in model.state_dict().items() if name in plain.state_dict()}
        missing, _ = plain.load_state_dict(shared, strict=False)
        ganglia = [f'stages.{i}.layers.{j}.mixer.' for i, stage in enumerate(model.stages) for j in stage.plan.ganglia]
        assert all(name.startswith(tuple(ganglia)) for name in missing)
        x = torch.randn(2, 3, *SIZE, dtype=torch.float64)
        for out, expected in zip(model(x), plain(x), strict=True):
            assert relative_error(out, expected) < 1e-14
    # With their own weights, the sources have an effect.
    changed = randomise(build(style, mixer, aggregator)).double().eval()
    assert relative_error(changed(x)[3], expected) > 1e-3


@pytest.mark.parametrize(('style', 'mixer', 'aggregator'), SOME)
def test_a_classifier_has_the_norm_of_the_style(style, mixer, aggregator):
    model = SparXClassifier(build(style, mixer, aggregator, out_indices=(3,), output_norm=False), num_classes=5)
    assert type(model.head.norm) is type(model.backbone.stages[0].layers[0].norm1)
    assert model.eval()(torch.randn(2, 3, *SIZE)).shape == (2, 5)


@pytest.mark.parametrize(('style', 'mixer', 'aggregator'), SOME)
def test_initial_values_after_the_meta_device(style, mixer, aggregator):
    """The values are those that the constructor draws, whatever was in memory."""
    fresh = build(style, mixer, aggregator)
    with torch.device('meta'):
        model = build(style, mixer, aggregator)
    model = forget(model.to_empty(device='cpu'))
    model.init_weights()
    expected = fresh.state_dict()
    for name, x in model.state_dict().items():
        y = expected[name]
        leaf = name.rpartition('.')[2]
        if x.numel() == 1 or not x.is_floating_point() or y.std() == 0 or leaf in ('A_log', 'A_b_log'):
            assert torch.equal(x, y), name
        elif x.numel() >= 256:  # a spread of 0.7 at most, in five standard deviations
            assert 0.7 < x.std() / y.std() < 1.4, name
        else:
            assert x.isfinite().all(), name
    assert all(out.isfinite().all() for out in model(torch.randn(2, 3, *SIZE)))


def forget(model):
    """Values that may be in memory that `to_empty` has allocated."""
    with torch.no_grad():
        for x in (*model.parameters(), *model.buffers()):
            x.fill_(math.nan if x.is_floating_point() else 7)
    return model


def test_initial_values_are_not_set_over_others():
    combination = SOME[0]
    weights = randomise(build(*combination)).state_dict()
    with torch.device('meta'):
        assigned, loaded = build(*combination), build(*combination)
    assigned.load_state_dict(weights, assign=True)
    loaded.to_empty(device='cpu').load_state_dict(weights)
    built = build(*combination)
    built.load_state_dict(weights)
    for model in (assigned, loaded, built):
        model.init_weights()
        assert all(torch.equal(x, weights[name]) for name, x in model.state_dict().items())


def test_initial_values_of_a_classifier():
    with torch.device('meta'):
        model = SparXClassifier(SparXMamba(SMALL_ARCH, out_indices=(3,), output_norm=False), num_classes=5)
    forget(model.to_empty(device='cpu')).init_weights()
    assert all(x.isfinite().all() for x in model.state_dict().values())
    assert all(int(x) == 0 for name, x in model.named_buffers() if name.endswith('num_batches_tracked'))
    assert model.eval()(torch.randn(1, 3, 32, 32)).isfinite().all()


@pytest.mark.parametrize(('style', 'mixer', 'aggregator'), SOME[::2])
def test_fake_tensors(style, mixer, aggregator):
    model = build(style, mixer, aggregator).eval()
    expected = [out.shape for out in model(torch.randn(2, 3, *SIZE))]
    with FakeTensorMode():
        outs = build(style, mixer, aggregator).eval()(torch.randn(2, 3, *SIZE))
    assert [out.shape for out in outs] == expected


@pytest.mark.skipif(not hasattr(torch.export.Dim, 'AUTO'), reason='torch 2.6 has it')
def test_export_of_any_size(tmp_path):
    """The networks are saved with open batch, height and width."""
    # The networks have few layers, since tracing with open sizes takes seconds per layer.
    model = randomise(SparXMamba(TWO_STAGES, out_indices=(0, 1))).eval()
    sizes = dict.fromkeys((0, 2, 3), torch.export.Dim.AUTO)
    program = torch.export.export(model, (torch.randn(2, 3, 64, 96),), dynamic_shapes=(sizes,), strict=False)
    torch.export.save(program, tmp_path / 'network.pt2')
    loaded = torch.export.load(tmp_path / 'network.pt2').module()
    x = torch.randn(3, 3, 47, 71)
    assert all(relative_error(a, b) < 1e-6 for a, b in zip(loaded(x), model(x), strict=True))


@pytest.mark.parametrize(('style', 'mixer', 'aggregator'), SOME)
def test_averaged_copies(style, mixer, aggregator):
    model, x = randomise(build(style, mixer, aggregator)), torch.randn(2, 3, *SIZE)
    average = ExponentialMovingAverage(model, momentum=0.5, update_buffers=True)
    average.update_parameters(model)
    # Outputs are not equal bit for bit: torch.matmul's method depends on whether its factors require a gradient.
    assert all(relative_error(a, b) < 1e-5 for a, b in zip(average.module.eval()(x), model.eval()(x), strict=True))
    before = {name: p.clone() for name, p in model.named_parameters()}
    randomise(model, 1)
    average.update_parameters(model)
    for name, p in average.module.named_parameters():
        assert relative_error(p, (before[name] + model.get_parameter(name)) / 2) < 1e-6, name


@pytest.mark.parametrize('mixer', ['SSM', 'BiSSM'])
def test_the_network_leaves_a_scans_initial_values(mixer):
    """Its steps start between 0.001 and 0.1, which zeros in their biases would undo."""
    model = build('vmamba', mixer, 'DMCA')
    biases = [p for name, p in model.named_parameters() if '.dt_proj' in name and name.endswith('bias')]
    steps = [nn.functional.softplus(bias) for bias in biases]
    assert len(steps) == 8 * (1 + (mixer == 'BiSSM'))
    assert all(step.min() > 0.0009 and step.max() < 0.11 for step in steps)


class TestBadInput:
    @pytest.mark.parametrize(
        ('options', 'error', 'message'),
        [
            ({'style': 'convnext'}, ValueError, "unknown style 'convnext'; known ones: sparx, vmamba, swin"),
            (
                {'token_mixer': {'type': 'Attention'}},
                ValueError,
                "unknown token mixer 'Attention'; known ones: BiSSM, SS2D, SSM, WindowAttention",
            ),
            (
                {'aggregator': {'type': 'GCCA'}},
                ValueError,
                "unknown aggregator 'GCCA'; known ones: Concat, DMCA, NoAttention, SCA, SRA",
            ),
            ({'arch': 'tiny'}, ValueError, "unknown arch 'tiny'; known ones: none, or a dict of channels, stages"),
            ({'token_mixer': {'type': 'WindowAttention', 'expand': 2}}, TypeError, 'expand'),
            ({'aggregator': {'type': 'Concat', 'learnable_scale': True}}, TypeError, 'learnable_scale'),
            ({'token_mixer': {'type': 'WindowAttention', 'num_heads': 5}}, ValueError, 'num_heads'),
            (
                {'aggregator': {'type': 'SRA', 'heads': 7}},
                ValueError,
                'SRA: expected heads that divide the 32 channels',
            ),
            ({'aggregator': {'type': 'DMCA', 'groups': None}}, ValueError, 'expected groups that divide .*groups=None'),
            ({'in_channels': 0}, ValueError, 'SparXNet: expected in_channels to be an integer of at least 1, got 0'),
            ({'out_indices': 2.5}, ValueError, r'out_indices: expected stages from 0 to 3, got 2\.5'),
            ({'out_indices': (3, 0)}, ValueError, r'expected stages from 0 to 3, got \(3, 0\); each once, in order'),
            ({'out_indices': (1, 1)}, ValueError, r'expected stages from 0 to 3, got \(1, 1\); each once, in order'),
            ({'frozen_stages': 1.0}, ValueError, r'frozen_stages: expected -1 to 4 for 4 stages, got 1\.0'),
            ({'arch': {**ARCH, 'channels': 24}}, ValueError, 'expected one entry of channels per stage, got 24'),
            ({'arch': {**ARCH, 'stages': 4}}, ValueError, 'expected one entry of stages per stage, got 4'),
            ({'arch': {**ARCH, 'stem_depth': '2'}}, ValueError, "expected stem_depth of at least 2, got '2'"),
            (
                {'arch': {**ARCH, 'shortcut_scales': 'true'}},
                ValueError,
                "entry of shortcut_scales per stage, got 'true'",
            ),
            (
                {'arch': {**PLAIN, 'channels': (1, 2, 4, 8)}},
                ValueError,
                'a first stage of at least 2 channels, of which',
            ),
        ],
        ids=str,
    )
    def test_is_refused(self, options, error, message):
        with pytest.raises(error, match=message):
            SparXNet(**{'arch': ARCH, **options})
