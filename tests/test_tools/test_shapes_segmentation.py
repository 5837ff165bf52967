"""Label maps from COCO's annotations, and the segmentation of drawn shapes with them."""

import json

import cv2
import numpy as np
import pytest
from helpers.tools import ROOT, load_tool, run_script, scalars

pytest.importorskip('mmseg', reason='segmentation needs mmsegmentation')
pycocotools = pytest.importorskip('pycocotools.mask', reason="COCO's masks need pycocotools")

CONFIG = ROOT / 'configs/segmentation/fpn_sparx_mini_shapes.py'
LABEL_MAPS = ROOT / 'tools/dataset_converters/label_maps.py'
converter = load_tool('dataset_converters/label_maps')


def rle(mask):
    encoded = pycocotools.encode(np.asfortranarray(mask.astype(np.uint8)))
    return dict(size=encoded['size'], counts=encoded['counts'].decode())


def annotation_file(folder, annotations, categories=(7, 3)):
    content = dict(
        images=[dict(id=1, file_name='sub/a.jpg', height=4, width=6), dict(id=2, file_name='b.jpg', height=4, width=6)],
        annotations=[dict(id=i, image_id=1, **annotation) for i, annotation in enumerate(annotations, 1)],
        categories=[dict(id=i, name=str(i)) for i in categories],
    )
    path = folder / 'instances.json'
    path.write_text(json.dumps(content))
    return path


def block(columns):
    mask = np.zeros((4, 6), bool)
    mask[:, columns] = True
    return rle(mask)


def test_categories_in_order_the_later_in_front_crowds_ignored(tmp_path):
    path = annotation_file(
        tmp_path,
        [
            dict(category_id=7, segmentation=block(slice(0, 3))),
            dict(category_id=3, segmentation=block(slice(2, 4))),
            dict(category_id=3, segmentation=block(slice(5, 6)), iscrowd=1),
        ],
    )
    assert converter.write_label_maps(path, tmp_path / 'maps') == 2
    label_map = cv2.imread(str(tmp_path / 'maps/sub/a.png'), cv2.IMREAD_UNCHANGED)
    assert label_map.tolist() == [[2, 2, 1, 1, 0, 255]] * 4
    assert not cv2.imread(str(tmp_path / 'maps/b.png'), cv2.IMREAD_UNCHANGED).any()


def test_too_many_categories(tmp_path):
    path = annotation_file(tmp_path, [], range(1, 300))
    with pytest.raises(ValueError, match='expected at most 254 categories, got 299'):
        converter.write_label_maps(path, tmp_path / 'maps')


def names_file(folder, *names):
    images = [dict(id=i, file_name=str(name), height=4, width=6) for i, name in enumerate(names)]
    path = folder / 'names.json'
    path.write_text(json.dumps(dict(images=images, annotations=[], categories=[dict(id=1, name='x')])))
    return path


def test_no_map_takes_the_place_of_an_image_or_of_another_map(tmp_path, capsys):
    images = tmp_path / 'images'
    images.mkdir()
    (images / 'a.png').write_text('an original')

    def refused(annotations, folder, *options):
        with pytest.raises(SystemExit):
            run_script(LABEL_MAPS, annotations, folder, *options)
        return capsys.readouterr().err

    said = refused(names_file(tmp_path, 'b.png', 'a.png'), images)
    assert f'{images}/a.png exists already; name another folder, or overwrite it with --force' in said
    assert 'the label maps of a.jpg and a.bmp would have the same name' in refused(
        names_file(tmp_path, 'a.jpg', 'a.bmp'), tmp_path / 'maps', '--force'
    )
    for outside in ('../images/a.png', images / 'a.png'):
        annotations = names_file(tmp_path, 'b.png', outside)
        assert 'outside' in refused(annotations, tmp_path / 'maps', '--force')
    (tmp_path / 'file').touch()
    assert 'cannot be written to' in refused(names_file(tmp_path, 'b.png'), tmp_path / 'file/maps')
    assert (images / 'a.png').read_text() == 'an original'
    assert {path.name for path in tmp_path.rglob('*') if path.is_file()} == {'a.png', 'file', 'names.json'}
    for force in ([], ['--force']):
        run_script(LABEL_MAPS, names_file(tmp_path, 'b.png'), tmp_path / 'maps', *force)


def test_drawn_shapes_through_the_tools(tool, tmp_path):
    data = tmp_path / 'data'
    run_script(ROOT / 'demo/make_shapes.py', data, '--train', 8, '--val', 2, '--size', 64)
    for split in ('train', 'val'):
        run_script(LABEL_MAPS, data / f'annotations/instances_{split}.json', data / f'label_maps/{split}')
        for path in (data / split).glob('*.jpg'):
            label_map = cv2.imread(str(data / f'label_maps/{split}' / f'{path.stem}.png'), cv2.IMREAD_UNCHANGED)
            assert label_map.shape == cv2.imread(str(path)).shape[:2]
            assert {0} < set(np.unique(label_map)) <= set(range(5))
    options = {'train_cfg.max_iters': 2, 'train_cfg.val_interval': 2, 'default_hooks.logger.interval': 1}
    for loader in ('train', 'val', 'test'):
        options[f'{loader}_dataloader.dataset.data_root'] = data
    work_dir = tmp_path / 'run'
    overrides = [f'{key}={value}' for key, value in options.items()]
    tool('train', CONFIG, '--no-pretrained', '--work-dir', work_dir, '--cfg-options', *overrides)
    assert any('mIoU' in line for line in scalars(work_dir))
