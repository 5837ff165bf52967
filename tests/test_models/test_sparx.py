"""The SparX network's behaviour: sizes, training, options, compositions, errors."""

import copy
import io
import itertools
import math
import pickle

import pytest
import torch
from helpers import SMALL_ARCH, Watch, randomise, relative_error
from mmengine.model import revert_sync_batchnorm
from torch import nn

from mmsparx.layers.basic import ChannelScale, DropPath
from mmsparx.layers.norm import BatchNorm
from mmsparx.models import SparXClassifier, SparXMamba, SparXNet
from mmsparx.registry import AGGREGATORS, TOKEN_MIXERS

CHANNELS = SMALL_ARCH['channels']


def build(cls=SparXMamba, **options):
    return cls(SMALL_ARCH, **options)


def batch_norms(model):
    return [m for m in model.modules() if isinstance(m, BatchNorm)]


def train_step(model, x, seed=0):
    """Outputs, input gradient and parameter gradients of one step with every output in the loss."""
    model.zero_grad()
    torch.manual_seed(seed)
    x = x.clone().requires_grad_()
    outs = model(x)
    generator = torch.Generator().manual_seed(1)
    sum((out * torch.randn(out.shape, generator=generator, dtype=out.dtype)).sum() for out in outs).backward()
    return outs, x.grad, {name: p.grad for name, p in model.named_parameters()}


class TestShapes:
    @pytest.mark.parametrize('size', [(1, 1), (1, 7), (33, 65), (97, 131), (64, 32)], ids=str)
    def test_any_size(self, size):
        outs = build().eval()(torch.randn(2, 3, *size))
        for i, out in enumerate(outs):
            assert out.shape == (2, CHANNELS[i], *(math.ceil(side / (4 * 2**i)) for side in size))
            assert out.isfinite().all()
            assert out.is_contiguous()

    def test_empty_batch(self):
        outs = build().eval()(torch.randn(0, 3, 32, 32))
        assert [tuple(out.shape) for out in outs] == [(0, 8, 8, 8), (0, 16, 4, 4), (0, 24, 2, 2), (0, 32, 1, 1)]

    def test_input_channels(self):
        assert build(in_channels=4, out_indices=(0,)).eval()(torch.randn(1, 4, 8, 8))[0].shape == (1, 8, 2, 2)

    @pytest.mark.parametrize('indices', [c for n in range(1, 5) for c in itertools.combinations(range(4), n)], ids=str)
    def test_out_indices(self, indices):
        model, whole = build(out_indices=indices), build()
        missing, unexpected = model.load_state_dict(whole.state_dict(), strict=False)
        assert not missing
        # A stage that is not built, or an output norm, is left over.
        last = max(indices)
        assert len(model.stages) == last + 1
        later = [f'stages.{i}.' for i in range(last + 1, 4)]
        norms = [f'out_norms.{i}.' for i in range(4) if i not in indices]
        assert all(name.startswith((*later, *norms)) for name in unexpected)
        x = torch.randn(1, 3, 40, 40)
        expected = whole.eval()(x)
        outs = model.eval()(x)
        assert len(outs) == len(indices)
        assert all(torch.equal(out, expected[i]) for i, out in zip(indices, outs, strict=True))

    @pytest.mark.parametrize('indices', [(), (4,), (-1,), (0, 1.0), ('0',)], ids=str)
    def test_bad_out_indices(self, indices):
        with pytest.raises(ValueError, match='out_indices: expected stages from 0 to 3, got'):
            build(out_indices=indices)


class TestOutputNorm:
    def test_normalises_the_output_of_the_stage(self):
        model = randomise(build()).eval()
        raw = {}
        for i, stage in enumerate(model.stages):
            stage.register_forward_hook(lambda _, __, out, i=i: raw.update({i: out}))
        outs = model(torch.randn(2, 3, 64, 64))
        assert [norm.eps for norm in model.out_norms.values()] == [1e-6] * 4
        for i, out in enumerate(outs):
            norm = model.out_norms[str(i)]
            x = raw[i].permute(0, 2, 3, 1)
            expected = nn.functional.layer_norm(x, x.shape[-1:], norm.weight, norm.bias, 1e-6).permute(0, 3, 1, 2)
            assert relative_error(out, expected) < 1e-6

    def test_off(self):
        model = build(output_norm=False).eval()
        raw = []
        for stage in model.stages:
            stage.register_forward_hook(lambda _, __, out: raw.append(out))
        outs = model(torch.randn(2, 3, 64, 64))
        assert len(model.out_norms) == 0
        assert all(out is x for out, x in zip(outs, raw, strict=True))


class TestWiring:
    @pytest.mark.parametrize('arch', ['tiny', 'small', 'base'])
    def test_ganglion_layers_get_the_sources_of_the_plan(self, arch):
        plans = SparXMamba.ARCHITECTURES[arch].stages
        model = SparXMamba({'channels': (4,) * 4, 'stages': plans}).eval()
        calls = []
        for stage in model.stages:
            for layer in stage.layers:
                layer.register_forward_hook(lambda layer, inputs, out: calls.append((layer, inputs, out)))
        with torch.no_grad():
            model(torch.randn(1, 3, 64, 64))
        assert [layer for layer, _, _ in calls] == [layer for stage in model.stages for layer in stage.layers]
        calls = iter(calls)
        for plan in plans:
            features = []
            for i in range(plan.depth):
                _, (x, *sources), out = next(calls)
                if not features:
                    features.append(x)
                # The tensors are identical: a layer's input and its sources are outputs of layers.
                assert x is features[-1]
                assert len(sources) == len(plan.sources(i))
                assert all(source is features[j] for source, j in zip(sources, plan.sources(i), strict=True))
                features.append(out)

    def test_layer(self):
        # x + dwconv(x), then twice scale(x) + branch(norm(x)).
        layer = randomise(build()).double().eval().stages[2].layers[1]
        assert isinstance(layer.scale1, ChannelScale)
        x = torch.randn(2, 24, 3, 5, dtype=torch.float64)
        y = x + nn.functional.conv2d(x, layer.position.weight, layer.position.bias, padding=1, groups=24)
        y = layer.scale1.weight.view(24, 1, 1) * y + layer.scale1.bias.view(24, 1, 1) + layer.mixer(layer.norm1(y))
        y = layer.scale2.weight.view(24, 1, 1) * y + layer.scale2.bias.view(24, 1, 1) + layer.ffn(layer.norm2(y))
        assert relative_error(layer(x), y) < 1e-12

    def test_shortcut_scales_by_stage(self):
        model = build()
        scaled = [[isinstance(layer.scale1, ChannelScale) for layer in stage.layers] for stage in model.stages]
        assert scaled == [[False], [False] * 2, [True] * 3, [True]]
        assert all(isinstance(layer.scale2, type(layer.scale1)) for stage in model.stages for layer in stage.layers)

    def test_prints_the_plan(self):
        assert 'G 2 <- 1 0' in repr(build())


class TestInitialValues:
    def test_every_parameter_starts_as_published(self):
        model = build()
        for name, module in model.named_modules():
            if isinstance(module, ChannelScale):
                assert module.weight.eq(1).all(), name
                assert module.bias.eq(0).all(), name
            elif isinstance(module, (nn.Conv2d, nn.Linear)):
                assert module.weight.abs().max() < 0.02 * 6, name  # torch's own would be uniform, and wider
                assert module.weight.std() > 0, name
                assert module.bias is None or module.bias.eq(0).all(), name
            elif isinstance(module, (nn.LayerNorm, nn.GroupNorm, BatchNorm)):
                assert module.weight.eq(1).all(), name
                assert module.bias.eq(0).all(), name

    def test_weights_are_of_one_distribution(self):
        weights = [m.weight for m in build().modules() if isinstance(m, nn.Conv2d) and not isinstance(m, ChannelScale)]
        weight = torch.cat([w.detach().flatten() for w in weights])
        assert weight.std().item() == pytest.approx(0.02, rel=5 / (2 * weight.numel()) ** 0.5)

    @pytest.mark.parametrize('layer', ['Conv2d', ['Conv2d', 'Linear', 'Conv1d']], ids=str)
    def test_mmengines_kinds_leave_shortcuts_and_scans(self, layer):
        model = build(init_cfg={'type': 'TruncNormal', 'layer': layer, 'std': 0.5, 'a': -1, 'b': 1})
        model.init_weights()
        assert model.stem[0].weight.std() > 0.2
        for module in model.modules():
            if isinstance(module, ChannelScale):
                assert module.weight.eq(1).all()
        mixer = model.stages[0].layers[0].mixer
        assert mixer.D.eq(1).all()
        assert nn.functional.softplus(mixer.dt_proj_bias).max() < 0.11

    def test_init_weights_without_config_changes_nothing(self):
        model = build()
        before = copy.deepcopy(model.state_dict())
        model.init_weights()
        assert model.is_init
        assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())


class TestDropPath:
    @pytest.mark.parametrize('indices', [(0, 1, 2, 3), (0, 2)], ids=str)
    def test_rates_rise_linearly_over_the_whole_network(self, indices):
        model = build(drop_path_rate=0.6, out_indices=indices)
        rates = [layer.drop_path.rate for stage in model.stages for layer in stage.layers]
        assert rates == pytest.approx([0.6 * i / 6 for i in range(7)][: len(rates)])

    def test_published_networks(self):
        with torch.device('meta'):
            rates = [m.rate for m in SparXMamba('tiny', drop_path_rate=0.2).modules() if isinstance(m, DropPath)]
        assert rates == pytest.approx([0.2 * i / 12 for i in range(13)])

    @pytest.mark.parametrize('rate', [-0.1, 1.0])
    def test_bad_rate(self, rate):
        with pytest.raises(ValueError, match=r'drop-path rate: expected 0 <= rate < 1'):
            build(drop_path_rate=rate)

    def test_drops_in_training_alone(self):
        model, x = randomise(build(drop_path_rate=0.9)), torch.randn(4, 3, 64, 64)
        model.eval()
        assert all(torch.equal(a, b) for a, b in zip(model(x), model(x), strict=True))
        model.train()
        assert not torch.equal(model(x)[3], model(x)[3])


class TestTraining:
    @pytest.mark.parametrize('norm', ['BN', 'SyncBN'])
    def test_every_parameter_gets_a_gradient(self, norm):
        # SyncBN, in one process on a CPU, is the ordinary batch norm.
        model = build(norm_cfg={'type': norm}, aggregator={'type': 'DMCA', 'learnable_scale': True})
        outs, grad, gradients = train_step(model, torch.randn(2, 3, 64, 96))
        assert all(out.isfinite().all() for out in outs)
        for name, gradient in {'input': grad, **gradients}.items():
            assert gradient is not None, name
            assert gradient.isfinite().all(), name
            assert gradient.any(), name

    @pytest.mark.parametrize('indices', [(0,), (0, 1), (0, 1, 2, 3)], ids=str)
    @pytest.mark.parametrize('size', [(1, 1), (4, 4), (4, 5), (5, 1), (32, 32), (33, 1), (32, 33)], ids=str)
    def test_small_images_train_or_are_refused_clearly(self, size, indices):
        # A batch norm needs two values: the step works, or the package raises an error before torch does.
        stride = 4 if indices == (0,) else 32
        model = build(out_indices=indices)
        x = torch.randn(1, 3, *size)
        if max(size) > stride:
            assert all(out.isfinite().all() for out in model(x))
        else:
            image = rf'an image of \({size[0]}, {size[1]}\) in a batch of 1'
            with pytest.raises(ValueError, match=rf'{image} .*\(stride {stride}\)'):
                model(x)
        assert all(out.isfinite().all() for out in model(x.repeat(2, 1, 1, 1)))  # two images will do

    def test_the_refusal_names_the_ways_out(self):
        with pytest.raises(ValueError, match='a side of more than 32, more images in a batch, or norm_eval=True'):
            build()(torch.randn(1, 3, 32, 32))

    @pytest.mark.parametrize('options', [{'norm_eval': True}, {'frozen_stages': 4}], ids=str)
    def test_batch_norms_in_eval_mode_are_not_refused(self, options):
        assert all(out.isfinite().all() for out in build(**options)(torch.randn(1, 3, 32, 32)))

    def test_batch_statistics_are_followed(self):
        model, x = build(), torch.randn(2, 3, 64, 64)
        model(x)
        for norm in batch_norms(model):
            assert norm.num_batches_tracked == 1
            assert norm.running_mean.any()


class TestFrozen:
    @pytest.mark.parametrize('frozen', [-1, 0, 1, 2, 4])
    def test_stages(self, frozen):
        model = build(frozen_stages=frozen)
        downsamples = [stage.downsample for stage in model.stages if stage.downsample is not None]
        count = max(frozen, 0)
        fixed = [model.stem] * (frozen >= 0) + [*model.stages[:count], *downsamples[:count]]
        free = [model.stem] * (frozen < 0) + [model.out_norms, *downsamples[count:]]
        free += [stage.layers for stage in model.stages[count:]]
        for mode in (True, False, True):
            model.train(mode)
            for module in fixed:
                assert not any(m.training for m in module.modules())
                assert not any(p.requires_grad for p in module.parameters())
            for module in free:
                assert all(m.training == mode for m in module.modules())
                assert all(p.requires_grad for p in module.parameters())

    def test_a_step_leaves_them_alone(self):
        model = build(frozen_stages=2)
        before = copy.deepcopy(model.state_dict())
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 0.1)
        _, _, gradients = train_step(model, torch.randn(2, 3, 64, 64))
        optimizer.step()
        for name, x in model.state_dict().items():
            frozen = name.startswith(('stem.', 'stages.0.', 'stages.1.', 'stages.2.downsample.'))
            assert torch.equal(x, before[name]) == frozen, name
            if name in gradients:
                assert (gradients[name] is None) == frozen

    @pytest.mark.parametrize('frozen', [-2, 5])
    def test_bad_values(self, frozen):
        with pytest.raises(ValueError, match=f'frozen_stages: expected -1 to 4 for 4 stages, got {frozen}'):
            build(frozen_stages=frozen)
        with pytest.raises(ValueError, match='expected -1 to 1 for 1 stages, got 2'):
            build(frozen_stages=2, out_indices=(0,))


class TestNorms:
    def test_norm_eval(self):
        model = build(norm_eval=True)
        model.train()
        assert model.stages[0].layers[0].training
        assert not any(norm.training for norm in batch_norms(model))
        before = copy.deepcopy(model.state_dict())
        train_step(model, torch.randn(2, 3, 64, 64))
        assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())
        assert all(p.grad is not None for norm in batch_norms(model) for p in norm.parameters())

    def test_norm_cfg_reaches_every_batch_norm(self):
        model = build(norm_cfg={'type': 'SyncBN', 'requires_grad': False, 'momentum': 0.03})
        norms = batch_norms(model)
        # Stem 2, downsamplings 3; four aggregators of 4, of which three have two reducers.
        assert len(norms) == 2 + 3 + 4 * 4 + 3 * 2
        assert all(type(norm) is nn.SyncBatchNorm and norm.momentum == 0.03 for norm in norms)
        assert not any(p.requires_grad for norm in norms for p in norm.parameters())

    @pytest.mark.parametrize('options', [{'norm_eval': True}, {'with_cp': True}], ids=str)
    def test_where_mmengine_has_reverted_sync_to_plain(self, options):
        """In one process the Runner does so, with a class of its own."""
        model = revert_sync_batchnorm(build(norm_cfg={'type': 'SyncBN'}, **options)).train()
        train_step(model, torch.randn(4, 3, 64, 64))
        tracked = {int(x) for name, x in model.state_dict().items() if name.endswith('num_batches_tracked')}
        assert tracked == ({0} if 'norm_eval' in options else {1})
        if 'with_cp' in options:
            with pytest.raises(ValueError, match='in a batch of 1'):
                model(torch.randn(1, 3, 32, 32))

    def test_sync_and_plain_agree_in_one_process(self):
        plain, sync = build(), build(norm_cfg={'type': 'SyncBN'})
        sync.load_state_dict(plain.state_dict())
        x = torch.randn(2, 3, 64, 64)
        assert all(torch.equal(a, b) for a, b in zip(plain(x), sync(x), strict=True))

    @pytest.mark.parametrize('cfg', [{'type': 'GN'}, {'type': 'LN2d'}, {'type': 'LN'}, {}, None], ids=str)
    @pytest.mark.parametrize('style', ['sparx', 'swin'])
    def test_no_batch_norm(self, cfg, style):
        """The option is also refused in a network that has none."""
        with pytest.raises(ValueError, match=r"norm_cfg: expected dict\(type='BN'\) or dict\(type='SyncBN'\), .*got "):
            build(norm_cfg=cfg, style=style)


class TestCheckpointing:
    @pytest.mark.parametrize('options', [{}, {'norm_eval': True}, {'norm_cfg': {'type': 'SyncBN'}}], ids=str)
    @pytest.mark.parametrize('with_cp', [True, (2,), [0, 3]], ids=str)
    def test_changes_nothing(self, with_cp, options):
        # The recomputation has the same drop path, and does not count a batch twice in a running mean.
        plain = randomise(build(drop_path_rate=0.5, **options))
        checkpointed = build(drop_path_rate=0.5, with_cp=with_cp, **options)
        checkpointed.load_state_dict(plain.state_dict())
        x = torch.randn(4, 3, 64, 64)
        for seed in range(2):
            (outs, grad, gradients), (outs_cp, grad_cp, gradients_cp) = (
                train_step(model, x, seed) for model in (plain, checkpointed)
            )
            assert all(torch.equal(a, b) for a, b in zip(outs_cp, outs, strict=True))
            assert torch.equal(grad_cp, grad)
            assert all(torch.equal(gradients_cp[name], gradient) for name, gradient in gradients.items())
            state = plain.state_dict()
            assert all(torch.equal(x, state[name]) for name, x in checkpointed.state_dict().items())
        tracked = {int(x) for name, x in state.items() if name.endswith('num_batches_tracked')}
        assert tracked == ({0} if options.get('norm_eval') else {2})

    @pytest.mark.parametrize(('with_cp', 'layers'), [(False, 0), (True, 7), ((), 0), ((2,), 3), ([0, 3], 2)], ids=str)
    def test_recomputes_the_requested_stages(self, with_cp, layers):
        model = build(with_cp=with_cp)
        calls = []
        for stage in model.stages:
            for layer in stage.layers:
                layer.position.register_forward_hook(lambda *_: calls.append(torch.is_grad_enabled()))
        train_step(model, torch.randn(2, 3, 64, 64))
        assert len(calls) == 7 + layers
        calls.clear()
        with torch.no_grad():
            model(torch.randn(2, 3, 64, 64))
        assert len(calls) == 7

    @pytest.mark.parametrize('with_cp', [(4,), [-1], 3, None], ids=str)
    def test_bad_stages(self, with_cp):
        with pytest.raises(ValueError, match='with_cp: expected a bool or stages from 0 to 3, got'):
            build(with_cp=with_cp)


class TestPrecision:
    @pytest.mark.parametrize('learnable_scale', [True, False])
    def test_float64_stays_float64(self, learnable_scale):
        model = build(drop_path_rate=0.3, aggregator={'type': 'DMCA', 'learnable_scale': learnable_scale}).double()
        x = torch.randn(2, 3, 48, 64, dtype=torch.float64)
        with Watch() as watch:
            sum(out.sum() for out in model(x)).backward()
        assert watch.floating == {torch.float64}

    def test_bfloat16_autocast(self):
        model, x = randomise(build()).eval(), torch.randn(2, 3, 64, 96)
        expected = model(x)
        with torch.autocast('cpu', dtype=torch.bfloat16):
            outs = model(x)
        for out, y in zip(outs, expected, strict=True):
            assert out.isfinite().all()
            # There are some seventy roundings of 2^-9 down to the last stage, and norms that divide by small numbers.
            assert relative_error(out, y) < 5e-2

    def test_bfloat16_autocast_trains(self):
        model = build(drop_path_rate=0.1)
        with torch.autocast('cpu', dtype=torch.bfloat16):
            outs = model(torch.randn(2, 3, 64, 96))
        sum(out.float().square().sum() for out in outs).backward()
        assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in model.parameters())


class TestCopies:
    def test_eval_is_deterministic(self):
        model, x = build(drop_path_rate=0.5).eval(), torch.randn(2, 3, 40, 40)
        before = copy.deepcopy(model.state_dict())
        outs = model(x)
        assert all(torch.equal(a, b) for a, b in zip(model(x), outs, strict=True))
        assert all(torch.equal(y, before[name]) for name, y in model.state_dict().items())

    def test_images_of_a_batch_do_not_meet(self):
        model, x = randomise(build()).eval(), torch.randn(3, 3, 40, 40)
        for batched, *alone in zip(model(x), *(model(x[i : i + 1]) for i in range(3)), strict=True):
            assert relative_error(torch.cat(alone), batched) < 1e-6

    @pytest.mark.parametrize('duplicate', [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
    def test_deepcopy_and_pickle(self, duplicate):
        model = randomise(build(with_cp=True, frozen_stages=1))
        twin = duplicate(model)
        x = torch.randn(2, 3, 64, 64)
        assert all(torch.equal(a, b) for a, b in zip(twin(x), model(x), strict=True))
        assert not {p.data_ptr() for p in twin.parameters()} & {p.data_ptr() for p in model.parameters()}
        twin.load_state_dict(build().state_dict())  # its hook was copied, too

    def test_state_dict_round_trip(self):
        model, other = randomise(build()).eval(), build().eval()
        file = io.BytesIO()
        torch.save(model.state_dict(), file)
        file.seek(0)
        other.load_state_dict(torch.load(file, weights_only=True))
        x = torch.randn(1, 3, 40, 40)
        assert all(torch.equal(a, b) for a, b in zip(other(x), model(x), strict=True))

    @pytest.mark.parametrize('training', [True, False])
    def test_compiles_to_one_graph(self, training):
        # aot_eager stops before inductor, which is tested on the operator.
        torch._dynamo.reset()
        stages = ({'depth': 1}, {'depth': 2, 'stride': 2})
        model = SparXMamba({'channels': (8, 8), 'stages': stages, 'shortcut_scales': (False, True)}, out_indices=(0, 1))
        randomise(model).train(training)
        x = torch.randn(2, 3, 64, 64)
        expected = copy.deepcopy(model)(x)
        outs = torch.compile(model, fullgraph=True, backend='aot_eager')(x)
        assert all(relative_error(a, b) < 1e-6 for a, b in zip(outs, expected, strict=True))


@pytest.fixture
def registered():
    """Registers a class for a test: `registered(registry)` is a decorator."""
    added = []

    def register(registry):
        def decorate(cls):
            registry.register_module(module=cls)
            added.append((registry, cls.__name__))
            return cls

        return decorate

    yield register
    for registry, name in added:
        del registry.module_dict[name]


class TestComposition:
    def test_a_custom_mixer(self, registered):
        @registered(TOKEN_MIXERS)
        class Pooling(nn.Module):
            def __init__(self, dim, aggregator=None, *, index, size=3):
                super().__init__()
                self.aggregate = aggregator and aggregator(dim, dim)
                self.pool = nn.AvgPool2d(size, 1, size // 2)

            def forward(self, x, *sources):
                return self.pool(self.aggregate(x, *sources) if sources else x)

        model = build(SparXNet, token_mixer={'type': 'Pooling', 'size': 5})
        mixers = [layer.mixer for stage in model.stages for layer in stage.layers]
        assert {type(mixer).__name__ for mixer in mixers} == {'Pooling'}
        assert all(mixer.pool.kernel_size == 5 for mixer in mixers)
        assert [mixer.aggregate is not None for mixer in mixers] == [False, False, True, True, False, True, True]
        _, _, gradients = train_step(model, torch.randn(2, 3, 64, 64))
        assert all(gradient.any() for gradient in gradients.values())

    def test_a_custom_aggregator(self, registered):
        made = []

        @registered(AGGREGATORS)
        class Concatenate(nn.Module):
            def __init__(self, dim, out_dim, sources, *, reduction, norm_cfg, bias=True):
                super().__init__()
                made.append((dim, out_dim, sources, reduction, norm_cfg['type'], bias))
                self.proj = nn.Conv2d((1 + sources) * dim, out_dim, 1, bias=bias)

            def forward(self, x, *sources):
                return self.proj(torch.cat((x, *sources), 1))

        model = build(aggregator={'type': 'Concatenate', 'bias': False})
        train_step(model, torch.randn(2, 3, 64, 64))
        assert made == [
            (16, 32, 2, 4, 'BN', False),
            (24, 48, 1, 2, 'BN', False),
            (24, 48, 2, 2, 'BN', False),
            (32, 64, 1, 1, 'BN', False),
        ]

    @pytest.mark.parametrize(
        ('option', 'cfg', 'message'),
        [
            ('token_mixer', {'type': 'SS3D'}, "unknown token mixer 'SS3D'; known ones: .*SS2D"),
            ('aggregator', {'type': 'DMCB'}, "unknown aggregator 'DMCB'; known ones: .*DMCA"),
            ('token_mixer', {'state_size': 2}, "token_mixer: expected a dict with a 'type', got {'state_size': 2}"),
            ('token_mixer', 'SS2D', "token_mixer: expected a dict with a 'type', got 'SS2D'"),
            ('token_mixer', {'type': None}, 'unknown token mixer None; known ones: .*SS2D'),
            ('aggregator', 'DMCA', "aggregator: expected a dict with a 'type', got 'DMCA'"),
            ('token_mixer', {'type': 'SS2D', 'index': 1}, 'token_mixer: index is set by the network'),
            ('aggregator', {}, "aggregator: expected a dict with a 'type', got {}"),
            ('aggregator', {'type': 'DMCA', 'reduction': 2}, 'aggregator: reduction is set by the network, from arch'),
        ],
        ids=str,
    )
    def test_bad_configs(self, option, cfg, message):
        with pytest.raises(ValueError, match=message):
            build(**{option: cfg})

    @pytest.mark.parametrize('option', ['token_mixer', 'aggregator'])
    def test_a_misspelt_option_is_refused(self, option):
        cfg = {'type': {'token_mixer': 'SS2D', 'aggregator': 'DMCA'}[option], 'nonesuch': 1}
        with pytest.raises(TypeError, match='nonesuch'):
            build(**{option: cfg})

    def test_configs_are_left_alone(self):
        options = {
            'token_mixer': {'type': 'SS2D', 'state_size': 2},
            'aggregator': {'type': 'DMCA', 'learnable_scale': True},
            'norm_cfg': {'type': 'SyncBN', 'requires_grad': True},
        }
        before = copy.deepcopy(options)
        model = build(**options)
        assert options == before
        assert model.stages[0].layers[0].mixer.A_log.shape[-1] == 2
        assert model.stages[3].layers[0].mixer.in_proj.scale.shape == (1,)

    def test_unknown_arch(self):
        with pytest.raises(ValueError, match="unknown arch 'huge'; known ones: tiny, small, base"):
            SparXMamba('huge')
        with pytest.raises(ValueError, match='unknown field depth; known ones: channels, stages'):
            SparXMamba({'depth': 2})

    def test_a_misspelt_argument_is_refused(self):
        with pytest.raises(TypeError, match='drop_path'):
            build(drop_path=0.1)


class TestClassifier:
    def test_head(self):
        model = randomise(SparXClassifier(build(out_indices=(3,), output_norm=False), num_classes=5)).double().eval()
        x = torch.randn(2, 3, 64, 96, dtype=torch.float64)
        (y,) = model.backbone(x)
        flat = y.flatten(1)
        y = (y - flat.mean(1)[:, None, None, None]) / (flat.var(1, correction=0) + 1e-5).sqrt()[:, None, None, None]
        y = y * model.head.norm.weight[:, None, None] + model.head.norm.bias[:, None, None]
        expected = y.mean((2, 3)) @ model.head.fc.weight.t() + model.head.fc.bias
        assert relative_error(model(x), expected) < 1e-12

    def test_head_starts_as_published(self):
        with torch.random.fork_rng():
            head = SparXClassifier(build(out_indices=(3,), output_norm=False), num_classes=1000).head
        assert head.fc.bias.eq(0).all()
        assert head.fc.weight.std().item() == pytest.approx(0.02, rel=5 / (2 * head.fc.weight.numel()) ** 0.5)

    def test_an_earlier_stage(self):
        model = SparXClassifier(build(out_indices=(1,), output_norm=False), num_classes=5)
        assert model(torch.randn(2, 3, 64, 64)).shape == (2, 5)

    @pytest.mark.parametrize('options', [{'out_indices': (2, 3), 'output_norm': False}, {'out_indices': (3,)}], ids=str)
    def test_other_backbones_are_refused(self, options):
        with pytest.raises(
            ValueError, match=r'expected a backbone with out_indices=\(last stage,\) and output_norm=False'
        ):
            SparXClassifier(build(**options))
