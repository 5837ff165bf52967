"""VMamba: outputs of the public model, and its published files in all spellings of names."""

import pytest
import torch
from helpers import oracle_image, oracle_outputs, oracle_shapes, oracle_weights, randomise, relative_error

from mmsparx.models import SparXClassifier, VMamba, load_pretrained
from mmsparx.weights.convert import convert, publish
from mmsparx.weights.names import VMAMBA

ARCHS = {'t': 'tiny', 't_s1l8': 'tiny_s1l8', 's': 'small', 'b': 'base'}
SMALL = {'channels': (8, 16), 'stages': [{'depth': 1}, {'depth': 2}]}


def classifier(arch=SMALL, num_classes=5, stage=1, **options):
    return SparXClassifier(VMamba(arch, out_indices=(stage,), output_norm=False, **options), num_classes)


@pytest.fixture(scope='module')
def models():
    """The oracle's networks in float64, each built once."""
    built = {}

    def get(letter):
        if letter not in built:
            with torch.device('meta'):
                model = classifier(ARCHS[letter], 1000, 3)
            model = model.double().to_empty(device='cpu')
            # The weights are loaded strictly, by published names.
            model.load_state_dict(oracle_weights(oracle_shapes(letter, 'vmamba_')))
            built[letter] = model.eval()
        return built[letter]

    yield get
    built.clear()


@pytest.mark.parametrize(
    ('letter', 'batch', 'height', 'width'),
    [('t', 1, 224, 224), ('t', 2, 64, 96), ('t', 1, 97, 131), ('t', 1, 32, 32), ('t_s1l8', 1, 64, 96)],
)
@torch.no_grad()
def test_outputs_of_the_public_model(letter, batch, height, width, models):
    model = models(letter)
    expected = oracle_outputs(f'vmamba_classifier_{letter}_{batch}x{height}x{width}')
    stages = []
    hooks = [stage.register_forward_hook(lambda _, __, out: stages.append(out)) for stage in model.backbone.stages]
    try:
        logits = model(oracle_image(batch, height, width))
    finally:
        for hook in hooks:
            hook.remove()
    assert len(stages) == 4
    for i, out in enumerate(stages, 1):
        assert list(out.shape) == expected[f'stage{i}_shape'].tolist()
        sampled = out.flatten()[:: int(expected['step'])]
        assert relative_error(sampled, torch.from_numpy(expected[f'stage{i}'])) < 1e-12
    assert relative_error(logits, torch.from_numpy(expected['logits'])) < 1e-12


@pytest.mark.parametrize('letter', ARCHS)
def test_names_and_shapes_of_the_public_model(letter):
    with torch.device('meta'):
        model = classifier(ARCHS[letter], 1000, 3)
        published = {name: torch.empty(shape) for name, shape in oracle_shapes(letter, 'vmamba_').items()}
    ours = {name.removeprefix('backbone.'): x.shape for name, x in model.state_dict().items()}
    renamed = {VMAMBA.to_ours(name): x for name, x in published.items()}
    assert {name: VMAMBA.to_our_value(name, x).shape for name, x in renamed.items()} == ours
    assert {VMAMBA.to_published(name) for name in ours} == {VMAMBA.spelling(name) for name in published}


class TestFiles:
    """Files of a small network in the forms of the released files, the newer code and other code."""

    @staticmethod
    def released(model, prefix=''):
        """A state dict in the released form; names of detectors begin with `backbone.`."""
        state = {}
        for name, x in model.state_dict().items():
            published = VMAMBA.to_published(name.removeprefix('backbone.'))
            state[prefix + published] = VMAMBA.to_published_value(published, x)
        return state

    @staticmethod
    def newer(released):
        """A state dict in the form of the newest public code."""
        state = {}
        for name, x in released.items():
            if name.endswith(('.x_proj_weight', '.dt_projs_weight')):
                name, x = name.replace('_weight', '.weight'), x.flatten(0, 1)
            state[name] = x
        return state

    @staticmethod
    def convolutions(released):
        """A state dict with projections as 1x1 convolutions."""
        wide = ('in_proj.weight', 'out_proj.weight', 'fc1.weight', 'fc2.weight')
        return {name: x[:, :, None, None] if name.endswith(wide) else x for name, x in released.items()}

    @pytest.fixture
    def trained(self):
        return randomise(classifier())

    def test_shapes_of_the_released_files(self, trained):
        found = {name: tuple(x.shape) for name, x in self.released(trained).items() if '.1.blocks.0.' in name}
        inner, rank = 32, 1
        assert found['layers.1.blocks.0.op.x_proj_weight'] == (4, rank + 2, inner)
        assert found['layers.1.blocks.0.op.dt_projs_weight'] == (4, inner, rank)
        assert found['layers.1.blocks.0.op.in_proj.weight'] == (inner, 16)
        assert found['layers.1.blocks.0.mlp.fc2.weight'] == (16, 64)

    @pytest.mark.parametrize('spelling', ['released', 'newer', 'convolutions'])
    @pytest.mark.parametrize('wrapped', [True, False])
    def test_a_classifier(self, spelling, wrapped, trained, save):
        state = self.released(trained)
        if spelling != 'released':
            state = getattr(self, spelling)(state)
        path = save({'model': state} if wrapped else state)
        model = classifier()
        report = load_pretrained(model, path)
        assert (report.share, report.fresh, report.left_out) == (1, [], [])
        assert all(torch.equal(x, model.state_dict()[name]) for name, x in trained.state_dict().items())
        backbone = VMamba(SMALL, out_indices=(0, 1))
        report = load_pretrained(backbone, path)
        assert [name for name in report.fresh if not name.startswith('out_norms.')] == []
        assert torch.equal(backbone.stages[1].downsample[0].weight, trained.backbone.stages[1].downsample[0].weight)

    def test_a_detector(self, save):
        trained = randomise(VMamba(SMALL, out_indices=(0, 1)))
        state = self.released(trained, 'backbone.')
        assert 'backbone.outnorm1.weight' in state
        model = VMamba(SMALL, out_indices=(0, 1))
        report = load_pretrained(model, save({'state_dict': {**state, 'neck.conv.weight': torch.zeros(2)}}))
        assert report.fresh == []
        assert all(torch.equal(x, model.state_dict()[name]) for name, x in trained.state_dict().items())

    @pytest.mark.parametrize('spelling', ['released', 'newer', 'convolutions'])
    def test_converted_there_and_back(self, spelling, trained, save, tmp_path):
        released = self.released(trained)
        state = released if spelling == 'released' else getattr(self, spelling)(released)
        ours, back = tmp_path / 'ours.pth', tmp_path / 'back.pth'
        convert(save(state), ours, to='ours')
        convert(ours, back, to='published')
        found = torch.load(ours, weights_only=True)
        assert found.keys() == trained.state_dict().keys()
        assert all(torch.equal(found[name], x) for name, x in trained.state_dict().items())
        found = torch.load(back, weights_only=True)
        assert found.keys() == released.keys()
        assert all(torch.equal(found[name], x) for name, x in released.items())

    def test_published_again(self, trained, save, tmp_path):
        path, _ = publish(save({'model': self.released(trained), 'epoch': 3}), tmp_path / 'vmamba.pth')
        assert torch.load(path, weights_only=True)['state_dict'].keys() == self.released(trained).keys()
        assert load_pretrained(classifier(), path).share == 1

    def test_missing_tensors_are_named(self, trained, save):
        state = self.released(trained)
        del state['layers.1.blocks.0.op.x_proj_weight']
        with pytest.raises(RuntimeError, match=r'1 MISSING .*: backbone\.stages\.1\.layers\.0\.mixer\.x_proj_w'):
            load_pretrained(classifier(), save(state))

    def test_an_unknown_shape(self, trained, save):
        state = self.released(trained)
        state['layers.0.blocks.0.op.in_proj.weight'] = torch.zeros(16, 7)
        with pytest.raises(RuntimeError, match=r'mixer\.in_proj\.weight'):
            load_pretrained(classifier(), save(state))
