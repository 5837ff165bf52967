"""The paths and files of a config that are checked and read before a run."""

import pytest
from helpers.annotations import NAN, clean, write
from mmengine.config import Config

from mmsparx.annotations import coco_faults, masks
from mmsparx.engine import data_check
from mmsparx.engine.data_check import check_data


def data_config(**dataset):
    return Config({'train_dataloader': {'dataset': dataset}})


def test_existing_data(tmp_path):
    (tmp_path / 'images').mkdir()
    (tmp_path / 'list.json').touch()
    dataset = {'data_root': str(tmp_path), 'ann_file': 'list.json', 'data_prefix': {'img': 'images', 'seg': ''}}
    check_data(data_config(**dataset), ('train_dataloader', 'val_dataloader'))


@pytest.mark.parametrize(
    ('wrap', 'key'),
    [
        (lambda dataset: dataset, 'train_dataloader.dataset'),
        (lambda dataset: {'type': 'RepeatDataset', 'dataset': dataset}, 'train_dataloader.dataset.dataset'),
        (lambda dataset: {'type': 'ConcatDataset', 'datasets': [dataset]}, 'train_dataloader.dataset.datasets.0'),
    ],
)
def test_missing_data_is_named_with_its_setting(tmp_path, wrap, key):
    dataset = {'data_root': str(tmp_path), 'ann_file': 'list.json', 'data_prefix': {'img': 'images'}}
    with pytest.raises(FileNotFoundError) as error:
        check_data(data_config(**wrap(dataset)), ('train_dataloader',))
    assert str(tmp_path / 'list.json') in str(error.value)
    assert f'{key}.data_root' in str(error.value)


def test_remote_data_is_left_to_its_backend():
    check_data(data_config(data_root='s3://bucket/coco/', ann_file='list.json'), ('train_dataloader',))


@pytest.fixture
def logged(monkeypatch):
    """The lines that the first process logs."""
    for name in ('RANK', 'SLURM_PROCID', 'OMPI_COMM_WORLD_RANK'):
        monkeypatch.delenv(name, raising=False)
    lines = []
    monkeypatch.setattr(data_check, 'print_log', lambda message, **_: lines.append(message))
    return lines


@pytest.mark.parametrize('name', ['backend_args', 'file_client_args'])
@pytest.mark.parametrize('backend', ['petrel', 'lmdb', 'memcached', 'http', 'my_own'])
def test_data_behind_a_backend_is_left_to_it(logged, name, backend):
    """The dataset's backend reads annotations, and that of the loading transform reads images."""
    behind = {name: {'backend': backend}}
    pipeline = [{'type': 'LoadImageFromFile', **behind}]
    paths = {'data_root': 'nowhere', 'ann_file': 'list.json', 'data_prefix': {'img': 'images'}}
    check_data(data_config(**paths, **behind, pipeline=pipeline), ('train_dataloader',))
    assert logged == [
        f'train_dataloader.dataset: {path} is behind a storage backend, and is not checked'
        for path in ('nowhere/list.json', 'nowhere/images', 'nowhere/')
    ]
    with pytest.raises(FileNotFoundError, match=r'nowhere/list\.json'):  # only the images are behind it
        check_data(data_config(**paths, pipeline=pipeline), ('train_dataloader',))
    with pytest.raises(FileNotFoundError, match='nowhere/images'):  # only the annotations are
        check_data(data_config(**paths, **behind), ('train_dataloader',))


@pytest.mark.parametrize('args', [None, {}, {'backend': 'local'}])
def test_local_backends_are_checked(args):
    dataset = {'data_root': 'nowhere', 'ann_file': 'list.json', 'backend_args': args}
    with pytest.raises(FileNotFoundError, match=r'nowhere/list\.json'):
        check_data(data_config(**dataset), ('train_dataloader',))


@pytest.mark.parametrize('dataset', [{'data_root': 'nowhere'}, {'data_prefix': 'nowhere'}, {'ann_file': 'nowhere'}])
def test_a_path_alone(dataset):
    with pytest.raises(FileNotFoundError, match=r'train_dataloader\.dataset: nowhere/? does not exist'):
        check_data(data_config(**dataset), ('train_dataloader',))


@pytest.mark.parametrize('wrap', [lambda x: x, lambda x: [{'type': 'Other'}, x], lambda x: {'metrics': [x]}])
def test_a_missing_file_of_an_evaluator(wrap):
    evaluator = wrap({'type': 'CocoMetric', 'ann_file': 'data/coco/val.json'})
    cfg = Config({'val_dataloader': {'dataset': {}}, 'val_evaluator': evaluator})
    with pytest.raises(
        FileNotFoundError, match=r'val_evaluator.*: data/coco/val\.json .* set val_evaluator.*\.ann_file'
    ):
        check_data(cfg, ('train_dataloader', 'val_dataloader'))
    check_data(Config({'val_evaluator': evaluator}), ('val_dataloader',))  # no validation


def coco_config(folder, train, val=None, classes=('cat', 'dog'), evaluated=None, metric='segm'):
    """A config of mmdet over annotation files; `evaluated` is the evaluator's, by default the one of `val`."""
    train, val = write(folder, train, 'train.json'), write(folder, train if val is None else val, 'val.json')
    evaluated = val if evaluated is None else write(folder, evaluated, 'evaluated.json')
    metainfo = {} if classes is None else {'metainfo': {'classes': classes}}
    pipeline = [{'type': 'LoadAnnotations', 'with_bbox': True, 'with_mask': metric == 'segm'}]

    def loader(path):
        return {'dataset': {'type': 'CocoDataset', 'ann_file': str(path), 'pipeline': pipeline, **metainfo}}

    evaluator = {'type': 'CocoMetric', 'ann_file': str(evaluated), 'metric': ['bbox', metric]}
    return Config(
        {
            'default_scope': 'mmdet',
            'train_dataloader': loader(train),
            'val_dataloader': loader(val),
            'val_evaluator': evaluator,
        }
    )


LOADERS = ('train_dataloader', 'val_dataloader')


def spoiled(**values):
    data = clean()
    data['annotations'][1].update(values)
    return data


@pytest.fixture
def mmdet():
    return pytest.importorskip('mmdet', reason="CocoDataset is mmdet's")


def test_faults_in_annotations_end_the_run(tmp_path, mmdet, logged, monkeypatch):
    cfg = coco_config(tmp_path, spoiled(bbox=[4, 5, NAN, 10], area=0), spoiled(category_id=9))
    with pytest.raises(ValueError, match='annotations have faults:') as error:
        check_data(cfg, LOADERS)
    text = str(error.value)
    assert f'{tmp_path}/train.json: {coco_faults.BOX.text}' in text
    assert f'{tmp_path}/val.json: {coco_faults.ANNOTATION_CATEGORY.text}' in text
    assert text.count('val.json') == 1  # once for the loader and its evaluator
    assert text.endswith('or go on with --annotation-faults warn')
    assert coco_faults.AREA_0.text in logged[0]
    logged.clear()
    check_data(cfg, LOADERS, 'warn')
    assert [line.splitlines()[0] for line in logged] == [
        'annotations may not be as they should be:',
        '--annotation-faults warn: annotations have faults:',
    ]
    logged.clear()
    check_data(cfg, LOADERS, 'ignore')
    monkeypatch.setenv('RANK', '1')
    check_data(cfg, LOADERS)
    assert not logged


def test_clean_annotations_say_nothing(tmp_path, mmdet, logged):
    check_data(coco_config(tmp_path, clean()), LOADERS)
    assert not logged


def test_masks_that_are_not_used(tmp_path, mmdet, logged):
    cfg = coco_config(tmp_path, spoiled(segmentation=[[1, 2]]), metric='bbox')
    check_data(cfg, LOADERS)
    assert masks.FEW_POINTS.text in logged[0]
    cfg = coco_config(tmp_path, spoiled(segmentation=[]))
    with pytest.raises(ValueError, match='the network learns or is tested on masks'):
        check_data(cfg, LOADERS)


def test_forgotten_classes(tmp_path, mmdet):
    with pytest.raises(
        ValueError, match=r"has 80 classes \('person', .*\) by default, .* the file 2 categories \('cat', 'dog'\)"
    ):
        check_data(coco_config(tmp_path, clean(), classes=None), LOADERS)


@pytest.mark.parametrize(
    ('given', 'message'),
    [
        (('Cat', 'dog'), r"train_dataloader\.dataset: 'Cat', and the file has 'cat'"),
        (('cat', 'cow', 'dog'), r"val_dataloader\.dataset: 'cow'"),
        (('dog', 'cat'), "'dog', 'cat'; the file has 'cat', 'dog'"),
        ('cat', r"train_dataloader\.dataset: 'cat'"),
    ],
)
def test_classes_that_the_file_does_not_have_so(tmp_path, mmdet, given, message):
    with pytest.raises(ValueError, match=message):
        check_data(coco_config(tmp_path, clean(), classes=given), LOADERS)


def test_an_evaluator_of_another_set(tmp_path, mmdet):
    other = clean()
    for i, image in enumerate(other['images'], 3):
        image['id'] = i
    other['annotations'] = []
    other['categories'][1]['name'] = 'cow'
    with pytest.raises(ValueError, match='annotations have faults') as error:
        check_data(coco_config(tmp_path, clean(), evaluated=other), LOADERS)
    text = str(error.value)
    assert f'{tmp_path}/evaluated.json: images of the dataset are not in' in text
    assert f'val_dataloader.dataset (its file is {tmp_path}/val.json): image 1\n' in text
    assert "val_dataloader.dataset: 'dog'" in text


def test_images_to_be_tested_without_annotations(tmp_path, mmdet):
    listed = clean()
    del listed['annotations']
    cfg = coco_config(tmp_path, clean(), listed)
    with pytest.raises(ValueError, match='annotations is missing or no list'):
        check_data(cfg, LOADERS)
    cfg.val_evaluator.format_only = True
    check_data(cfg, LOADERS)


def test_other_formats_are_left_alone(tmp_path, mmdet):
    cfg = coco_config(tmp_path, {'images': []})
    cfg.val_evaluator = None
    for kind in ('CocoPanopticDataset', 'LVISV1Dataset', 'VOCDataset', 'NotRegistered', None):
        for loader in LOADERS:
            cfg[loader].dataset.type = kind
        check_data(cfg, LOADERS)


def folders_config(root, classes=None, type='CustomDataset'):
    metainfo = {} if classes is None else {'metainfo': {'classes': classes}}
    splits = {
        f'{split}_dataloader': {'dataset': {'type': type, 'data_root': str(root), 'data_prefix': split, **metainfo}}
        for split in ('train', 'val', 'test')
    }
    return Config({'default_scope': 'mmpretrain', **splits})


@pytest.fixture
def folders(tmp_path):
    pytest.importorskip('mmpretrain', reason="CustomDataset is mmpretrain's")
    for split in ('train', 'val', 'test'):
        for name in ('cat', 'dog'):
            (tmp_path / split / name).mkdir(parents=True)
            (tmp_path / split / name / '1.png').touch()
    return tmp_path


def test_class_folders(folders, logged):
    cfg = folders_config(folders, ('cat', 'dog'))
    check_data(cfg, LOADERS)
    check_data(cfg, ('test_dataloader',))
    assert not logged
    (folders / 'train' / 'dog' / '1.png').rename(folders / 'train' / 'dog' / '1.webp')
    check_data(cfg, LOADERS)
    assert 'train: the folder of a class holds no image' in logged[0]


@pytest.mark.parametrize('prefix', ['test', {'img_path': 'test'}])
def test_a_split_without_a_class(folders, prefix):
    (folders / 'test' / 'cat' / '1.png').unlink()
    (folders / 'test' / 'cat').rmdir()
    cfg = folders_config(folders)
    cfg.test_dataloader.dataset.data_prefix = prefix
    with pytest.raises(
        ValueError, match=r"test: the folders of classes differ .*\n    'cat' is not here, but in .*train"
    ):
        check_data(cfg, ('test_dataloader',))


def test_class_names_in_disorder(folders):
    with pytest.raises(ValueError, match="a class is 'dog' where the folder is 'cat'"):
        check_data(folders_config(folders, ('dog', 'cat')), LOADERS)


def test_class_folders_of_imagenet(folders):
    cfg = folders_config(folders, type='ImageNet')
    with pytest.raises(ValueError, match='1000 classes, and 2 folders'):
        check_data(cfg, LOADERS)
    for loader in LOADERS:
        cfg[loader].dataset.ann_file = 'train/cat/1.png'  # a list of images, as far as the config says
    check_data(cfg, LOADERS)


class TestLabelMaps:
    @pytest.fixture
    def maps(self, tmp_path):
        pytest.importorskip('mmseg', reason="the datasets are mmseg's")
        for folder in ('images/a', 'maps/a'):
            (tmp_path / folder).mkdir(parents=True)
        for name in ('1', 'a/2', 'a/3.x'):
            (tmp_path / 'images' / f'{name}.jpg').touch()
            (tmp_path / 'maps' / f'{name}.png').touch()
        (tmp_path / 'images' / 'notes.txt').touch()
        (tmp_path / 'maps' / 'of_no_image.png').touch()
        return tmp_path

    def config(self, root, **dataset):
        prefix = dict(img_path='images', seg_map_path='maps')
        pipeline = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')]
        dataset = dict(data_root=str(root), data_prefix=prefix, pipeline=pipeline) | dataset
        return Config(dict(default_scope='mmseg', train_dataloader=dict(dataset=dict(type='ADE20KDataset') | dataset)))

    def test_pairs(self, maps, logged):
        check_data(self.config(maps), LOADERS)
        assert not logged

    @pytest.mark.parametrize('type', ['ADE20KDataset', 'BaseSegDataset', 'mmseg.CityscapesDataset'])
    def test_an_image_without_a_label_map(self, type, maps):
        endings = dict(img_suffix='.jpg', seg_map_suffix='.png') if 'Cityscapes' in type else {}
        (maps / 'maps' / 'a' / '2.png').unlink()
        with pytest.raises(ValueError, match=r'maps: an image has no label map of its name \(1 time\)\n    a/2\.jpg\n'):
            check_data(self.config(maps, type=type, **endings), LOADERS)

    def test_other_endings(self, maps):
        with pytest.raises(ValueError, match=r'\(3 times\)\n    1\.jpg'):
            check_data(self.config(maps, seg_map_suffix='_labels.png'), LOADERS)
        check_data(self.config(maps, img_suffix='.tif'), LOADERS)

    def test_a_test_without_labels(self, maps):
        (maps / 'maps' / '1.png').unlink()
        check_data(self.config(maps, pipeline=[dict(type='LoadImageFromFile')]), LOADERS)
