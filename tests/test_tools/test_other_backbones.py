"""SparX-Swin and VMamba as backbones of a detector and of a segmenter, trained as `mmsparx train` trains."""

from collections import defaultdict

import pytest
import torch

pytest.importorskip('mmdet', reason='the detector needs mmdet')
pytest.importorskip('mmseg', reason='the segmenter needs mmseg')
from helpers.segmentation import config, write_ade
from helpers.tools import CONFIG, overrides, parse, write_coco

from mmsparx.engine.command_line import build_runner, load_config
from mmsparx.engine.training import apply_training_options

BACKBONES = {
    'SparX-Swin': {'model.backbone.type': 'mmsparx.SparXSwin'},
    'VMamba': {
        'model.backbone.type': 'mmsparx.VMamba',
        'model.backbone.arch.stages': [{'depth': depth} for depth in (1, 2, 3, 1)],
    },
}
TASKS = {
    'detection': (CONFIG, lambda folder: write_coco(folder, 'train2017', 4, seed=0)),
    'segmentation': (config('fpn'), lambda folder: write_ade(folder, 'training', 4)),
}
STEPS = 3


@pytest.mark.parametrize('task', TASKS)
@pytest.mark.parametrize('backbone', BACKBONES)
def test_every_parameter_gets_a_gradient_in_every_step(backbone, task, tmp_path):
    path, write_images = TASKS[task]
    write_images(tmp_path / 'data')
    options = overrides(tmp_path / 'data', STEPS, task)
    arguments = [path, '--no-pretrained', '--work-dir', str(tmp_path / 'work'), '--cfg-options', *options]
    args = parse('train', *arguments)
    cfg = load_config(args)
    apply_training_options(cfg, args)
    cfg.merge_from_dict({**BACKBONES[backbone], 'val_dataloader': None, 'val_cfg': None, 'val_evaluator': None})
    runner = build_runner(cfg)
    assert type(runner.model.backbone).__name__ == backbone.replace('-', '')

    gradients = defaultdict(list)
    for name, parameter in runner.model.named_parameters():
        parameter.register_hook(lambda gradient, name=name: gradients[name].append(gradient.abs().sum()))
    runner.train()
    assert gradients.keys() == dict(runner.model.named_parameters()).keys()
    for name, sums in gradients.items():
        sums = torch.stack(sums)
        assert sums.isfinite().all(), name
        # A layer that a head shares between levels gets a gradient from each of them, and a head may not use some of
        # its parameters, such as those for boxes of classes that no image has.
        assert len(sums) == STEPS or not name.startswith('backbone.'), name
        assert sums.all() or not name.startswith('backbone.'), name
