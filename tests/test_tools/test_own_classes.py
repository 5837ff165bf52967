"""The examples of fine-tuning on your own classes: copied, shortened and trained from weights of other classes."""

import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

pytest.importorskip('mmdet', reason='one of the examples is a detector')
pytest.importorskip('mmseg', reason='one of the examples is a segmenter')
pytest.importorskip('mmpretrain', reason='one of the examples is a classifier')
from helpers import SMALL_ARCH, randomise
from helpers.configs import CONFIGS
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from mmsparx.weights import read_checkpoint

CHANNELS = list(SMALL_ARCH['channels'])
SMALL = dict(backbone=dict(arch={**SMALL_ARCH, '_delete_': True}))
# For each example: edits at its top, and settings that make it small enough for a test.
EXAMPLES = {
    'detection/examples/mask_rcnn_sparx_t_own_classes.py': (
        {'max_epochs = 12': 'max_epochs = 10', 'batch_size = 2': 'batch_size = 5'},
        dict(
            **SMALL,
            neck=dict(in_channels=CHANNELS, out_channels=16),
            rpn_head=dict(in_channels=16, feat_channels=16, anchor_generator=dict(scales=[4])),
            roi_head=dict(
                bbox_roi_extractor=dict(out_channels=16),
                bbox_head=dict(in_channels=16, fc_out_channels=32),
                mask_roi_extractor=dict(out_channels=16),
                mask_head=dict(in_channels=16, conv_out_channels=16),
            ),
            train_cfg=dict(rpn_proposal=dict(nms_pre=100, max_per_img=30), rcnn=dict(sampler=dict(num=16))),
            test_cfg=dict(rpn=dict(nms_pre=100, max_per_img=30)),
        ),
    ),
    'segmentation/examples/upernet_sparx_t_own_classes.py': (
        {'max_iters = 4000': 'max_iters = 40', 'scale = (2048, 512)': 'scale = (64, 64)', '(512, 512)': '(64, 64)'},
        dict(
            **SMALL,
            decode_head=dict(in_channels=CHANNELS, channels=16),
            auxiliary_head=dict(in_channels=CHANNELS[2], channels=16),
        ),
    ),
    'classification/examples/sparx_mamba_t_own_classes.py': (
        {'max_epochs = 20': 'max_epochs = 10', 'batch_size = 32': 'batch_size = 5'},
        dict(**SMALL, head=dict(in_channels=CHANNELS[-1])),
    ),
}
PIPELINE = [dict(type='LoadImageFromFile'), dict(type='Resize', scale=(32, 32)), dict(type='PackInputs')]
# For each library: layers with a channel for each class, and the log's metrics of single classes.
HEADS = {
    'mmdet': (('roi_head.bbox_head', 'roi_head.mask_head'), r'coco/circle_precision: \d'),
    'mmseg': (('decode_head', 'auxiliary_head'), r'\| +circle +\|( +[\d.]+| +nan) +\|'),
    'mmpretrain': (('head',), r'single-label/recall_classwise: \['),
}


def write_data(folder: Path, split: str, count: int, in_folders: bool) -> None:
    """Write data for the examples: annotations and label maps of bright squares, or a folder for each digit."""
    rng = np.random.default_rng(len(split))
    maps, annotations, images = folder / 'label_maps' / split, [], []
    maps.mkdir(parents=True)
    for i in range(count):
        image, label = rng.integers(0, 80, (64, 64, 3), np.uint8), i % 4
        x, y, side = (int(v) for v in (*rng.integers(2, 24, 2), 30))
        image[y : y + side, x : x + side] = [(250, 60, 40), (40, 250, 60), (60, 40, 250), (40, 200, 250)][label]
        label_map = np.zeros((64, 64), np.uint8)
        label_map[y : y + side, x : x + side] = label + 1
        path = folder / split / (f'{i % 10}/{i}.jpg' if in_folders else f'{i}.jpg')
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), image)
        cv2.imwrite(str(maps / f'{i}.png'), label_map)
        images.append(dict(id=i, file_name=f'{i}.jpg', width=64, height=64))
        polygon = [x, y, x + side, y, x + side, y + side, x, y + side]
        annotations.append(
            dict(id=i + 1, image_id=i, category_id=label + 1, bbox=[x, y, side, side], area=side**2, iscrowd=0,
                 segmentation=[polygon])
        )  # fmt: skip
    categories = [dict(id=i, name=name) for i, name in enumerate(('circle', 'triangle', 'square', 'star'), 1)]
    file = folder / f'annotations/instances_{split}.json'
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(dict(images=images, annotations=annotations, categories=categories)))


def other_classes(cfg: Config, heads: tuple[str, ...], file: Path) -> dict[str, torch.Tensor]:
    """Write weights of a config's network, but with 7 classes."""
    cfg = cfg.copy()
    for head in heads:
        cfg.merge_from_dict({f'model.{head}.num_classes': 7})
    init_default_scope(cfg.default_scope)
    model = randomise(MODELS.build({**cfg.model, 'data_preprocessor': None, 'train_cfg': cfg.model.get('train_cfg')}))
    torch.save(dict(state_dict=model.state_dict()), file)
    return model.state_dict()


@pytest.mark.parametrize('name', EXAMPLES)
def test_an_example(name, tool, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folders = name.startswith('classification')
    for split, count in (('train', 10), ('val', 10 if folders else 2)):
        write_data(tmp_path / 'data/own', split, count, folders)
    edits, small = EXAMPLES[name]
    text = (CONFIGS / name).read_text().replace("'../", f"'{(CONFIGS / name).parents[1]}/")
    for before, after in edits.items():
        assert text.count(before) == 1
        text = text.replace(before, after)
    Path('own.py').write_text(text)
    loaders = [f'{split}_dataloader = dict(dataset=dict(pipeline={PIPELINE}))' for split in ('train', 'val') if folders]
    Path('small.py').write_text('\n'.join(["_base_ = './own.py'", f'model = {small}', *loaders]))
    cfg = Config.fromfile('small.py')
    heads, measured = HEADS[cfg.default_scope]
    given = other_classes(cfg, heads, tmp_path / 'other.pth')

    options = {'load_from': 'other.pth', 'default_hooks.logger.interval': 1}
    options['train_cfg.val_interval'] = cfg.train_cfg.get('max_epochs', cfg.train_cfg.get('max_iters'))
    options['default_hooks.checkpoint.interval'] = options['train_cfg.val_interval']
    options |= {f'{loader}_dataloader.num_workers': 0 for loader in ('train', 'val')}
    options |= {f'{loader}_dataloader.persistent_workers': False for loader in ('train', 'val')}
    if cfg.default_scope == 'mmdet':
        options |= {f'{loader}_dataloader.dataset.pipeline.{i}.scale': '(64,64)' for loader, i in
                    (('train', 2), ('val', 1))}  # fmt: skip
    arguments = [f'{key}={value}' for key, value in options.items()]
    from_scratch = ['--no-pretrained'] if cfg.model.backbone.get('init_cfg') else []  # the example advises it
    tool('train', 'small.py', '--work-dir', 'work', *from_scratch, '--cfg-options', *arguments)

    log = next(Path('work').glob('*/*.log')).read_text()
    assert 'the run has' not in log  # its schedule fits
    assert re.search(measured, log)
    (best,) = Path('work').glob('best_*.pth')
    trained = read_checkpoint(str(best))['state_dict']
    fixed = [key for key in given if key.startswith('backbone.stages.0.')]
    assert fixed
    assert all(torch.equal(given[key], trained[key]) for key in fixed)  # frozen, from the other classes' network
    moved = 'backbone.stages.3.layers.0.norm1.weight'
    assert 0 < (given[moved] - trained[moved]).abs().max() < 0.1  # and trained, from the same
