"""The network of a file, and its differences from a model."""

import itertools

import pytest
import torch
from helpers import SMALL_ARCH, oracle_shapes, randomise
from helpers.weights import build, published_classifier, published_detector

from mmsparx.models import SparXClassifier, SparXMamba, SparXSwin, VMamba, load_pretrained
from mmsparx.weights import match_weights
from mmsparx.weights.networks import backbone_shapes, differences, identify

NETWORKS = [(family, arch) for family in (SparXMamba, SparXSwin, VMamba) for arch in family.ARCHITECTURES]
FILES = {
    **{(SparXMamba, arch): ('', arch[0]) for arch in SparXMamba.ARCHITECTURES},
    **{(VMamba, arch): ('vmamba_', {'tiny_s1l8': 't_s1l8'}.get(arch, arch[0])) for arch in VMamba.ARCHITECTURES},
}
IDS = [f'{family.__name__}-{arch}' for family, arch in NETWORKS]


@pytest.fixture(scope='module')
def backbones():
    with torch.device('meta'):
        return {(family, arch): family(arch, output_norm=False) for family, arch in NETWORKS}


def published(network):
    """The published file of a network, in published names, without memory for its values."""
    family, letter = FILES[network]
    return {name: torch.empty(shape, device='meta') for name, shape in oracle_shapes(letter, family).items()}


class TestIdentify:
    @pytest.mark.parametrize('network', NETWORKS, ids=IDS)
    def test_our_names(self, network, backbones):
        state = backbones[network].state_dict()
        expected = [(network[0].__name__, network[1])]
        assert identify(backbone_shapes(state)) == expected
        inside = {f'backbone.{name}': x for name, x in state.items()} | {'head.fc.weight': torch.zeros(2, 2)}
        assert identify(backbone_shapes(inside)) == expected

    @pytest.mark.parametrize('network', FILES, ids=lambda network: f'{network[0].__name__}-{network[1]}')
    def test_published_files(self, network):
        state = published(network)
        expected = [(network[0].__name__, network[1])]
        assert identify(backbone_shapes(state)) == expected
        detector = {f'backbone.{name}': x for name, x in state.items()} | {'neck.conv.weight': torch.zeros(2)}
        assert identify(backbone_shapes(detector)) == expected

    def test_channels_and_scale_do_not_matter(self):
        with torch.device('meta'):
            model = SparXMamba('tiny', in_channels=5, aggregator={'type': 'DMCA', 'learnable_scale': True})
        assert identify(backbone_shapes(model.state_dict())) == [('SparXMamba', 'tiny')]

    def test_early_stages(self):
        with torch.device('meta'):
            state = VMamba('tiny', out_indices=(1,)).state_dict()
        assert identify(backbone_shapes(state)) == [('VMamba', 'tiny'), ('VMamba', 'small')]

    def test_no_named_network(self):
        assert identify(backbone_shapes(build().state_dict())) == []
        assert identify({}) == []
        incomplete = published((SparXMamba, 'tiny'))
        del incomplete['layers.2.blocks.0.op.Ds']
        assert identify(backbone_shapes(incomplete)) == []

    def test_no_single_backbone(self):
        state = build().state_dict()
        both = {f'{place}.{name}': x for name, x in state.items() for place in ('teacher', 'student')}
        assert backbone_shapes(both) == backbone_shapes({'layer1.0.conv1.weight': torch.zeros(1)}) == {}


@pytest.mark.parametrize(('model', 'file'), itertools.permutations(NETWORKS, 2), ids=str)
def test_the_other_network_is_named(model, file, backbones):
    """It is named for a backbone and a classifier, with our names and published ones."""
    (family, arch), (other, other_arch) = model, file
    advice = f'arch={other_arch!r}' if other is family else f'{other.__name__}(arch={other_arch!r})'
    said = (
        f'The file is of {other.__name__} {other_arch!r}, and this model is {family.__name__} {arch!r}. '
        f'Build the model with {advice}. Nothing was loaded.'
    )
    states = [backbones[file].state_dict()]
    states += [published(file)] if file in FILES else []
    with torch.device('meta'):
        classifier = torch.nn.ModuleDict({'backbone': backbones[model], 'head': torch.nn.Linear(2, 2)})
    for state, whole in itertools.product(states, (backbones[model], classifier)):
        with pytest.raises(RuntimeError) as error:
            match_weights(whole, state, 'the file')
        assert str(error.value).splitlines()[-1] == said


class TestWaysIn:
    """Small architectures under names, and files of them."""

    @pytest.fixture(autouse=True)
    def _small(self, monkeypatch):
        from mmsparx.models.architecture import Architecture

        plain = {'channels': (8, 16), 'stages': [{'depth': 1}, {'depth': 2}]}
        archs = {
            SparXMamba: {'tiny': SMALL_ARCH},
            VMamba: {'tiny': plain, 'tiny_s1l8': {**plain, 'token_mixer': {'expand': 1}}},
        }
        for family, named in archs.items():
            monkeypatch.setattr(family, 'ARCHITECTURES', {k: Architecture.of(arch, {}) for k, arch in named.items()})

    def test_a_file(self, save):
        path = save({'model': VMamba('tiny_s1l8', out_indices=(0, 1)).state_dict()})
        with pytest.raises(RuntimeError, match=r"is of VMamba 'tiny_s1l8', and this model is VMamba 'tiny'\. Build"):
            load_pretrained(VMamba('tiny', out_indices=(0, 1)), path)
        model = SparXMamba('tiny', init_cfg={'type': 'Pretrained', 'checkpoint': path})
        with pytest.raises(
            RuntimeError, match=r"SparXMamba 'tiny'\. Build the model with VMamba\(arch='tiny_s1l8'\)\."
        ):
            model.init_weights()

    def test_a_model_without_a_name(self):
        model = VMamba({'base': 'tiny', 'stages': [{'depth': 1}, {'depth': 3}]}, out_indices=(0, 1))
        said = (
            r"is of SparXMamba 'tiny', and this model is a VMamba of no named arch\. Build .* SparXMamba\(arch='tiny'\)"
        )
        with pytest.raises(RuntimeError, match=said):
            match_weights(model, SparXMamba('tiny').state_dict(), 'the file')

    def test_the_same_network_with_another_fault(self):
        state = VMamba('tiny', out_indices=(0, 1), in_channels=4).state_dict()
        with pytest.raises(RuntimeError, match='Its stem takes images of 4 channels'):
            match_weights(VMamba('tiny', out_indices=(0, 1)), state, 'the file')

    def test_another_familys_file_is_not_renamed(self):
        """No loader renames it, although half of the names would match."""
        classifier = SparXClassifier(SparXMamba('tiny', out_indices=(3,), output_norm=False), 5)
        state = {
            VMamba.weight_names.to_published(k): x for k, x in VMamba('tiny', out_indices=(1,)).state_dict().items()
        }
        with pytest.raises(RuntimeError, match=r'Unexpected key\(s\) in state_dict: "patch_embed\.0\.weight"'):
            classifier.load_state_dict(state)


def stages(**third):
    return SMALL_ARCH | {'stages': [*SMALL_ARCH['stages'][:2], {'depth': 3, **third}, SMALL_ARCH['stages'][3]]}


class TestDifferences:
    """Messages on a file of the small network in another one."""

    @pytest.mark.parametrize(
        ('options', 'said'),
        [
            (
                {'arch': stages(stride=1, window=3)},
                ['ganglion layers of stage 3: 0, 2 in the file, 0, 1, 2 in the mod'],
            ),
            ({'arch': stages()}, ['ganglion layers of stage 3: 0, 2 in the file, none in the model']),
            ({'arch': stages(stride=2, dense=True)}, ['sources of layer 2 in stage 3: 2 in the file, 3 in the model']),
            ({'arch': stages(stride=2) | {'reductions': (1, 4, 1, 1)}}, ['reduction in stage 3: 2 in the file, 1 in']),
            (
                {'aggregator': {'type': 'Concat'}},
                ['parts of the aggregator: k, mix, q, source_norm, source_proj, v in'],
            ),
            (
                {'aggregator': {'type': 'DMCA', 'shortcut': False}},
                ['shape of stages.1.layers.1.mixer.in_proj.mix.0.we'],
            ),
            (
                {'token_mixer': {'type': 'SS2D', 'expand': 1}},
                ['shape of stages.0.layers.0.mixer.x_proj_weight: 12, 16'],
            ),
            (
                {'token_mixer': {'type': 'SSM'}},
                ['parts of the token mixer: A_log, D, conv, dt_proj_bias, ', ' conv1d,'],
            ),
            (
                {'style': 'vmamba'},
                [
                    'tensors in the stem: 10 in the file, 8 in the model',
                    'parts of the feed-forward: dwconv, fc1, fc2 in the file, fc1, fc2 in the model',
                    'parts of the position encoding: position in the file, none in the model',
                    'stages with shortcut scales: 3, 4 in the file, none in the model',
                ],
            ),
        ],
        ids=str,
    )
    def test_of_a_model(self, options, said):
        model = build(**{'arch': SMALL_ARCH, **options})
        with pytest.raises(RuntimeError) as error:
            match_weights(model, published_classifier(), 'the file')
        cause = str(error.value).splitlines()[-1]
        assert cause.startswith('The file is of another network; ')
        assert all(part in cause for part in said), cause

    @pytest.mark.parametrize('file', [published_classifier(), published_detector()], ids=['classifier', 'detector'])
    def test_none(self, file):
        ours = {name: x for name, x in build().state_dict().items() if not name.startswith('out_norms.')}
        assert differences(backbone_shapes(file), backbone_shapes(ours)) == []
        early = backbone_shapes(build(out_indices=(0, 1)).state_dict())
        assert differences(backbone_shapes(file), early) == []

    def test_where_a_part_of_the_file_is_missing(self):
        for name in ('stem.0.weight', 'stages.2.layers.0.mixer.D', 'stages.3.layers.0.mixer.in_proj.k.1.weight'):
            state = build().state_dict()
            ours = backbone_shapes(state)
            del state[name]
            assert differences(backbone_shapes(state), ours) == []


def test_a_learnable_scale_of_other_mixers(save):
    """It stands where the mixer has its aggregator."""
    scale = {'type': 'DMCA', 'learnable_scale': True}
    for options in ({'token_mixer': {'type': 'SSM'}}, {'token_mixer': {'type': 'WindowAttention'}}):
        path = save(
            {f'backbone.{name}': x for name, x in randomise(build(output_norm=False, **options)).state_dict().items()}
        )
        report = load_pretrained(build(aggregator=scale, **options), path)
        assert len([name for name in report.fresh if name.endswith('.scale')]) == 4
        path = save(build(aggregator=scale, output_norm=False, **options).state_dict())
        with pytest.raises(RuntimeError, match=r'It has a learnable attention scale, which aggregator=dict'):
            load_pretrained(build(**options), path)
