"""Resumed runs: they end like uninterrupted ones, bit for bit, whatever draws random numbers."""

import pytest
from helpers.checkpoints import assert_equal_runs


def test_a_classifier_with_mixed_images_by_epochs(tmp_path):
    """The model draws mixtures with numpy, and there are augmentations and validations between iterations."""
    pytest.importorskip('mmpretrain', reason='mmpretrain mixes images')
    from helpers.classification import run_tool, write_config, write_folders

    by = By(is_by_epoch=True)

    write_folders(tmp_path / 'data', per_class=4)
    recipe = write_config(tmp_path, tmp_path / 'data', epochs=3)
    config = tmp_path / 'config.py'
    config.write_text(f"""
_base_ = {str(recipe)!r}
model = dict(
    backbone=dict(drop_path_rate=0.3),
    train_cfg=dict(augments=[dict(type=kind, alpha=1.0) for kind in ('Mixup', 'CutMix', 'ResizeMix')]),
)
{by.settings}
""")

    def train(work, *resume):
        run_tool('train', config, '--no-pretrained', '--work-dir', work, *resume)

    assert_equal_runs(train, tmp_path, by)


def test_a_detector_with_batches_of_sizes_that_are_drawn_by_iterations(tool, coco, tmp_path):
    """A size is drawn by Python's generator every third iteration, and kept for the two that follow."""
    pytest.importorskip('mmdet', reason='mmdet resizes batches')
    from helpers.tools import CONFIG, overrides

    by = By(is_by_epoch=False)

    config = tmp_path / 'config.py'
    config.write_text(f"""
_base_ = {CONFIG!r}
model = dict(
    data_preprocessor=dict(
        pad_mask=False,
        batch_augments=[dict(type='BatchSyncRandomResize', random_size_range=(64, 192), size_divisor=32, interval=3)],
    ),
    roi_head=dict(mask_roi_extractor=None, mask_head=None),
)
train_dataloader = dict(dataset=dict(pipeline=[
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Resize', scale=(64, 64)),
    dict(type='PhotoMetricDistortion'),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]))
val_evaluator = dict(metric='bbox')
""")
    settings = tmp_path / 'settings.py'

    def train(work, *resume):
        options = overrides(coco, iters=6, **{'train_cfg.val_interval': 2})
        settings.write_text(f'_base_ = {str(config)!r}\n{by.settings}')
        tool('train', settings, '--no-pretrained', '--work-dir', work, *resume, '--cfg-options', *options)

    assert_equal_runs(train, tmp_path, by)


class By:
    """The counting of a run, by epochs or iterations, and the place where it is resumed."""

    def __init__(self, is_by_epoch: bool):
        self.is_by_epoch = is_by_epoch
        self.resumed, self.last = ('epoch_1.pth', 'epoch_3.pth') if is_by_epoch else ('iter_4.pth', 'iter_6.pth')
        loop = (
            dict(type='EpochBasedTrainLoop', max_epochs=3, val_interval=2)
            if is_by_epoch
            else dict(type='IterBasedTrainLoop', max_iters=6, val_interval=3)
        )
        sampler = dict(type='DefaultSampler' if is_by_epoch else 'InfiniteSampler', shuffle=True)
        self.settings = f"""
train_cfg = dict(_delete_=True, **{loop})
train_dataloader = dict(sampler=dict(_delete_=True, **{sampler}))
param_scheduler = [dict(type='LinearLR', start_factor=0.1, by_epoch=False, end=6)]
default_hooks = dict(checkpoint=dict(by_epoch={is_by_epoch}, interval=1, max_keep_ckpts=-1), logger=dict(interval=1))
log_processor = dict(by_epoch={is_by_epoch})
"""
