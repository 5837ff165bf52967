"""Outputs of the released model, reproduced: the whole networks, in float64 and float32, on a GPU as well."""

import copy

import pytest
import torch
from helpers import DEVICES, oracle_image, oracle_outputs, oracle_shapes, oracle_weights, relative_error

from mmsparx.models import SparXClassifier, SparXMamba

TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5}


@pytest.fixture(scope='module')
def models():
    """Networks by name, type and device; each is built once, and others are copies of those in float64 on the CPU."""
    built = {}

    def get(name, dtype, device):
        first, key = (name, torch.float64, 'cpu'), (name, dtype, device)
        if first not in built:
            built[first] = {'t': tiny, 's': small, 'detector': detector}[name]()
        if key not in built:
            built[key] = copy.deepcopy(built[first]).to(device, dtype)
        return built[key]

    yield get
    built.clear()


@pytest.fixture(params=DEVICES)
def device(request, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, 'allow_tf32', False)
    return request.param


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
    sampled = actual.cpu().flatten()[:: int(expected['step'])]
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
def test_classifier(name, batch, height, width, dtype, device, models):
    model = models(name, dtype, device)
    expected = oracle_outputs(f'classifier_{name}_{batch}x{height}x{width}')
    stages = {}
    hooks = [
        stage.register_forward_hook(lambda _, __, out, i=i: stages.update({f'stage{i}': out}))
        for i, stage in enumerate(model.backbone.stages, 1)
    ]
    try:
        logits = model(oracle_image(batch, height, width).to(device, dtype))
    finally:
        for hook in hooks:
            hook.remove()
    assert list(stages) == ['stage1', 'stage2', 'stage3', 'stage4']
    for stage, out in stages.items():
        compare(out, expected, stage, dtype)
    assert logits.dtype == dtype
    assert relative_error(logits.cpu(), torch.from_numpy(expected['logits'])) < TOLERANCE[dtype]


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32])
@torch.no_grad()
def test_detector(dtype, device, models):
    expected = oracle_outputs('detection_t_1x128x192')
    outs = models('detector', dtype, device)(oracle_image(1, 128, 192).to(device, dtype))
    assert len(outs) == 4
    for i, out in enumerate(outs):
        compare(out, expected, f'out{i}', dtype)
