"""Outputs of the released model, reproduced: the whole networks, in float64 and float32."""

import copy

import pytest
import torch
from helpers import oracle_image, oracle_outputs, oracle_shapes, oracle_weights, relative_error

from mmsparx.models import SparXClassifier, SparXMamba

TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5}


@pytest.fixture(scope='module')
def models():
    """Networks by name and type; each is built once, and float32 ones are copies of float64 ones."""
    built = {}

    def get(name, dtype):
        if (name, torch.float64) not in built:
            built[name, torch.float64] = {'t': tiny, 's': small, 'detector': detector}[name]()
        if (name, dtype) not in built:
            built[name, dtype] = copy.deepcopy(built[name, torch.float64]).to(dtype)
        return built[name, dtype]

    yield get
    built.clear()


def classifier(arch, letter):
    with torch.device('meta'):
        model = SparXClassifier(SparXMamba(arch, out_indices=(3,), output_norm=False))
    model = model.double().to_empty(device='cpu')
    model.load_state_dict(oracle_weights(oracle_shapes(letter)))  # strictly, by published names
    return model.eval()


def tiny():
    return classifier('tiny', 't')


def small():
    return classifier('small', 's')


def detector():
    with torch.device('meta'):
        model = SparXMamba('tiny', aggregator={'type': 'DMCA', 'learnable_scale': True})
    shapes = oracle_shapes('t') | oracle_shapes('t_detection_extra')
    weights = oracle_weights({name: shape for name, shape in shapes.items() if not name.startswith('classifier.')})
    model = model.double().to_empty(device='cpu')
    model.load_state_dict(weights)
    return model.eval()


def compare(actual, expected, name, dtype):
    """A sampled output of the oracle: `name`, its shape, and every `step`-th element."""
    assert actual.dtype == dtype
    assert list(actual.shape) == expected[f'{name}_shape'].tolist()
    sampled = actual.flatten()[:: int(expected['step'])]
    assert relative_error(sampled, torch.from_numpy(expected[name])) < TOLERANCE[dtype], name


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32])
@pytest.mark.parametrize(
    ('name', 'batch', 'height', 'width'),
    [
        ('t', 1, 224, 224),
        ('t', 2, 96, 160),
        ('t', 1, 16, 16),  # 1x1 maps in the last stages
        ('s', 1, 97, 131),  # odd sides, the window at work, two missing channels
    ],
)
@torch.no_grad()
def test_classifier(name, batch, height, width, dtype, models):
    model = models(name, dtype)
    expected = oracle_outputs(f'classifier_{name}_{batch}x{height}x{width}')
    stages = {}
    hooks = [
        stage.register_forward_hook(lambda _, __, out, i=i: stages.update({f'stage{i}': out}))
        for i, stage in enumerate(model.backbone.stages, 1)
    ]
    try:
        logits = model(oracle_image(batch, height, width).to(dtype))
    finally:
        for hook in hooks:
            hook.remove()
    assert list(stages) == ['stage1', 'stage2', 'stage3', 'stage4']
    for stage, out in stages.items():
        compare(out, expected, stage, dtype)
    assert logits.dtype == dtype
    assert relative_error(logits, torch.from_numpy(expected['logits'])) < TOLERANCE[dtype]


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32])
@torch.no_grad()
def test_detector(dtype, models):
    expected = oracle_outputs('detection_t_1x128x192')
    outs = models('detector', dtype)(oracle_image(1, 128, 192).to(dtype))
    assert len(outs) == 4
    for i, out in enumerate(outs):
        compare(out, expected, f'out{i}', dtype)
