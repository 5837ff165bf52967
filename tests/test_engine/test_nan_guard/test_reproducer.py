"""The reproducer of an iteration is valid JSON and complete."""

import json
from pathlib import Path

import numpy as np
import torch
from helpers.runners import INF, NAN
from mmengine.structures import BaseDataElement

from mmsparx.engine.nan_guard.reproducer import write_reproducer


def test_contents(tmp_path):
    sample = BaseDataElement(
        metainfo={
            'img_path': '/images/1.png',
            'ori_shape': (2, 3),
            'scale': np.array([1.5, INF]),
            'img_id': np.int64(4),
        },
        boxes=torch.tensor([[0.0, NAN, 2.0, 1.0]]),
        masks=torch.ones(1, 2, 3, dtype=torch.bool),
    )
    batch = {'inputs': [torch.tensor([[3, 250]], dtype=torch.uint8)], 'data_samples': [sample], 'none': torch.empty(0)}
    facts = {'iteration': 3, 'losses': {'loss': torch.tensor(-INF)}, 'rates': [NAN, 0.5], 'where': Path('a/b')}
    path = tmp_path / 'new' / 'kept.json'
    write_reproducer(path, facts, batch)

    def refuse(constant):
        raise AssertionError(f'{constant} is not JSON')

    kept = json.loads(path.read_text(), parse_constant=refuse)
    assert kept['iteration'] == 3
    assert kept['losses'] == {'loss': '-inf'}
    assert kept['rates'] == ['nan', 0.5]
    assert kept['where'] == 'a/b'
    expected = {'img_path': '/images/1.png', 'ori_shape': [2, 3], 'scale': [1.5, 'inf'], 'img_id': 4}
    assert kept['images'] == [expected]
    assert kept['tensors'] == {
        'inputs.0': {'shape': [1, 2], 'dtype': 'torch.uint8', 'min': 3, 'max': 250, 'finite': 1.0},
        'data_samples.0.boxes': {'shape': [1, 4], 'dtype': 'torch.float32', 'min': 0.0, 'max': 2.0, 'finite': 0.75},
        'data_samples.0.masks': {'shape': [1, 2, 3], 'dtype': 'torch.bool', 'min': True, 'max': True, 'finite': 1.0},
        'none': {'shape': [0], 'dtype': 'torch.float32', 'min': None, 'max': None, 'finite': 0.0},
    }
    assert kept['versions']['torch'] == torch.__version__
    assert kept['versions']['mmengine']
