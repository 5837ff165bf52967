"""Functions that read batches."""

from types import SimpleNamespace

import torch
from mmengine.structures import BaseDataElement

from mmsparx.engine.common import named_tensors, samples


def test_samples_of_any_batch():
    one, other = BaseDataElement(), BaseDataElement()
    assert [*samples({'inputs': torch.ones(2), 'data_samples': [one, other]})] == [one, other]
    assert [*samples([[torch.ones(2)], (one, {'x': other})])] == [one, other]
    assert [*samples(torch.ones(2))] == []


def test_names_of_tensors():
    sample = BaseDataElement(boxes=SimpleNamespace(tensor=torch.ones(1)), label='cat')
    tree = {'inputs': [torch.ones(2), torch.ones(3)], 'data_samples': (sample,), 'count': 3}
    assert {name: len(x) for name, x in named_tensors(tree)} == {
        'inputs.0': 2,
        'inputs.1': 3,
        'data_samples.0.boxes': 1,
    }
