"""Messages about data, configs and checkpoints with faults."""

import json
import shutil

import pytest
import torch

pytest.importorskip('mmdet', reason='the detection tools need mmdet')
from helpers.tools import CONFIG, overrides, scalars


def edit_annotations(coco, change, split='train2017'):
    path = coco / f'annotations/instances_{split}.json'
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def test_missing_config(train):
    with pytest.raises(ValueError, match=r"no config file 'nothing\.py' in .*'mmsparx configs' lists all"):
        train(config='nothing.py')


def test_missing_data_folder(train, coco):
    shutil.rmtree(coco)
    with pytest.raises(FileNotFoundError, match=r'train_dataloader\.dataset: .*instances_train2017.*ln -s') as error:
        train()
    assert 'train_dataloader.dataset.data_root' in str(error.value)


def test_missing_image_folder(train, coco):
    shutil.rmtree(coco / 'train2017')
    with pytest.raises(FileNotFoundError, match='train2017'):
        train()


@pytest.mark.parametrize(
    'spoil',
    [
        lambda image: image.write_bytes(image.read_bytes()[:40]),
        lambda image: image.write_bytes(b''),
        lambda image: image.unlink(),
    ],
    ids=['cut off', 'empty', 'missing'],
)
def test_an_unreadable_image_is_named(train, coco, spoil):
    for image in (coco / 'train2017').iterdir():
        spoil(image)
    with pytest.raises(Exception, match=r'train2017/\d\.png'):
        train()


def test_images_without_annotations_are_left_out(train, coco):
    def drop_one(data):
        data['annotations'] = [a for a in data['annotations'] if a['image_id'] != 0]

    edit_annotations(coco, drop_one)
    assert _losses(train())


def test_images_without_annotations_train_as_background(train, coco):
    """With filter_empty_gt=False an image without objects is an image of background."""
    edit_annotations(coco, lambda data: data.update(annotations=[]))
    losses = _losses(train(**{'train_dataloader.dataset.filter_cfg.filter_empty_gt': False}))
    assert all(loss == loss and loss < float('inf') for loss in losses)


def test_nothing_left_to_train_on(train, coco):
    edit_annotations(coco, lambda data: data.update(annotations=[]))
    with pytest.raises(ValueError, match=r'a dataset holds no image.*filter_empty_gt=False'):
        train()


def test_a_schedule_of_a_longer_run(train):
    """The default warm-up, on few images."""
    work = train(log_level='WARNING', **{'param_scheduler.0.end': 1000})
    (log,) = work.glob('*/*.log')
    logged = log.read_text()
    assert 'the run has 2 iterations; param_scheduler[0] (LinearLR) warms up for 1000. Set' in logged
    assert '--cfg-options param_scheduler.1.T_max=2' in logged


def test_annotations_of_missing_images_are_left_out(train, coco):
    def add_one(data):
        data['annotations'].append({**data['annotations'][0], 'id': 99, 'image_id': 99})

    before = _losses(train())
    shutil.rmtree(coco.parent / 'work')
    edit_annotations(coco, add_one)
    assert _losses(train()) == before


def test_boxes_outside_the_image(train, coco):
    """Boxes partly outside, at a corner, wholly outside, or without area are clipped to the image or left out."""

    def move(data):
        boxes = [40, 40, 500, 500], [-30, -30, 50, 50], [100, 100, 20, 20], [10, 10, 0, 0]
        for annotation, (x, y, w, h) in zip(data['annotations'], boxes, strict=True):
            polygon = [x, y, x + w, y, x + w, y + h, x, y + h]
            annotation.update(bbox=[x, y, w, h], area=w * h, segmentation=[polygon])

    edit_annotations(coco, move)
    # There are two images in a batch, so that both kinds are drawn in few iterations.
    assert all(loss == loss and loss < float('inf') for loss in _losses(train(iters=4)))


def test_crowds_only(train, coco):
    def into_crowds(data):
        for annotation in data['annotations']:
            annotation['iscrowd'] = 1
            x, y, w, h = annotation['bbox']
            counts = [(x * 64) + y, *([h, 64 - h] * (w - 1)), h, 64 * (64 - x - w) + 64 - y - h]
            annotation['segmentation'] = {'size': [64, 64], 'counts': counts}

    edit_annotations(coco, into_crowds)
    losses = _losses(train(**{'train_dataloader.dataset.filter_cfg.filter_empty_gt': False}))
    assert all(loss == loss and loss < float('inf') for loss in losses)


def spoil(data):
    """Put a fault into each annotation."""
    for annotation, fault in zip(
        data['annotations'],
        [{'bbox': [1, 2, float('nan'), 4]}, {'category_id': 99}, {'segmentation': [[1, 2, 3]]}, {'area': 0}],
        strict=True,
    ):
        annotation.update(fault)


def test_annotations_with_faults_end_a_training(train, coco, tmp_path):
    edit_annotations(coco, spoil)
    with pytest.raises(ValueError, match=r'instances_train2017\.json: bbox of an annotation') as error:
        train()
    assert 'image 0, annotation 1 (annotations[0]): bbox [1, 2, nan, 4]' in str(error.value)
    assert 'category_id 99' in str(error.value)
    assert 'odd number of coordinates' in str(error.value)
    assert not list((tmp_path / 'work').glob('2*'))  # no runner was built


def test_annotations_with_faults_end_a_test(tool, coco, tmp_path):
    edit_annotations(coco, lambda data: data['annotations'][0].pop('iscrowd'))
    with pytest.raises(ValueError, match='iscrowd missing'):
        tool('test', CONFIG, 'x.pth', '--work-dir', tmp_path, '--cfg-options', *overrides(coco))


def test_a_run_goes_on_with_faults(train, coco):
    edit_annotations(coco, lambda data: data['annotations'][0].update(bbox=[1, 2, -3, 4]))
    assert _losses(train('--annotation-faults', 'warn'))


@pytest.mark.parametrize(
    ('option', 'value', 'message'),
    [
        ('model.backbone.arch', 'huge', "unknown arch 'huge'; known ones: tiny, small, base"),
        ('model.backbone.token_mixer', "{'type': 'Nope'}", r"unknown token mixer 'Nope'; known ones: .*SS2D"),
        ('model.backbone.aggregator.type', 'Nope', r"unknown aggregator 'Nope'; known ones: .*DMCA"),
        (
            'model.backbone.token_mixer',
            "{'type': 'SS2D', 'backend': 'gpu'}",
            r"unknown .*backend 'gpu'.*; known ones: auto",
        ),
    ],
)
def test_unknown_names_list_the_known_ones(train, tmp_path, option, value, message):
    *parents, last = option.split('.')
    body = f'{last}={value if value.startswith("{") else repr(value)}'
    for parent in reversed(parents):
        body = f'{parent}=dict({body})'
    config = tmp_path / 'config.py'
    config.write_text(f'_base_ = {CONFIG!r}\n{body}\n')
    with pytest.raises(Exception, match=message):
        train(config=config)


@pytest.mark.parametrize(
    ('key', 'message'),
    [
        ('optim_wraper.optimizer.lr', r"the config has no 'optim_wraper'; did you mean optim_wrapper\.optimizer\.lr\?"),
        ('val_evaluator.metrik', r'\(CocoMetric\) has no .* mean val_evaluator\.metric\?'),
        ('model.backbone.with_pc', r'\(mmsparx\.SparXMamba\) has no .* mean model\.backbone\.with_cp\?'),
        ('train_dataloader.dataset.pipeline.2.scael', r'\(Resize\) has no .*scael'),
        ('model.roi_head.bbox_head.loss_cls.loss_weigth', r'\(CrossEntropyLoss\) has no .*\.loss_weight\?'),
    ],
)
def test_an_option_with_a_typo_ends_the_run(train, tmp_path, key, message):
    with pytest.raises(ValueError, match=message):
        train(**{key: 7})
    assert not (tmp_path / 'work').exists()


def test_options_that_a_class_takes_need_not_be_in_the_config(train):
    assert train(
        iters=1,
        **{
            'model.backbone.with_cp': True,
            'optim_wrapper.accumulative_counts': 1,
            'model.roi_head.bbox_head.loss_cls.loss_weight': 2.0,
            'train_dataloader.pin_memory': False,
        },
    )


def test_a_hook_with_a_typo_ends_the_run_before_its_first_iteration(train, tmp_path):
    """The checkpoints' hook would find it at the first save."""
    with pytest.raises(TypeError, match=r"SafeCheckpointHook takes no 'intervall'; did you mean 'interval'\?"):
        train(iters=1, **{'default_hooks.checkpoint.intervall': 7})
    config = tmp_path / 'config.py'
    config.write_text(f"_base_ = {CONFIG!r}\nval_evaluator = dict(metrik='bbox')\n")
    with pytest.raises(TypeError, match=r"val_evaluator \(CocoMetric\) takes no 'metrik'; did you mean 'metric'\?"):
        train(iters=1, config=config)


def test_a_path_with_spaces_arrives_whole(train, coco):
    moved = coco.rename(coco.with_name('my coco (2017)'))
    options = {f'{loader}_dataloader.dataset.data_root': moved for loader in ('train', 'val', 'test')}
    for evaluator in ('val', 'test'):
        options[f'{evaluator}_evaluator.ann_file'] = moved / 'annotations/instances_train2017.json'
    assert _losses(train(iters=1, **options))


def test_augmentation_of_a_test_with_masks(tool, coco, tmp_path):
    with pytest.raises(ValueError, match='--tta: the model predicts masks of instances'):
        tool('test', CONFIG, 'x.pth', '--tta', '--work-dir', tmp_path, '--cfg-options', *overrides(coco))


class Hostile:
    """An unsafe unpickler creates a file for it."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return open, (str(self.mark), 'w')


def test_foreign_code_in_a_checkpoint_does_not_run(train, tool, coco, tmp_path):
    path, mark = tmp_path / 'hostile.pth', tmp_path / 'mark'
    torch.save({'state_dict': {}, 'extra': Hostile(mark)}, path)
    with pytest.raises(RuntimeError, match=r'it asks to call io\.open'):
        tool('test', CONFIG, path, '--work-dir', tmp_path, '--cfg-options', *overrides(coco))
    with pytest.raises(RuntimeError, match=r'no checkpoint|it asks to call io\.open'):
        train('--resume', path)
    assert not mark.exists()


def test_truncated_checkpoint(train, tmp_path):
    path = tmp_path / 'half.pth'
    torch.save({'state_dict': {'a': torch.zeros(1000)}}, path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(RuntimeError, match=r'half\.pth is damaged: cut off after 2000 bytes'):
        train('--resume', path)


def test_another_networks_checkpoint_is_not_tested_as_if_it_were_loaded(tool, coco, tmp_path):
    """mmengine only warns, and evaluates random weights."""
    path = tmp_path / 'foreign.pth'
    torch.save({'state_dict': {'backbone.layer1.0.conv1.weight': torch.zeros(1)}}, path)
    with pytest.raises(RuntimeError, match=r'they begin with: backbone\.layer1'):
        tool('test', CONFIG, path, '--work-dir', tmp_path, '--cfg-options', *overrides(coco))


def _losses(work):
    return [line['loss'] for line in scalars(work) if 'loss' in line]
