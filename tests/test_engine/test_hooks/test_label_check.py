"""LabelCheckHook's messages on classes, label maps and labels that do not fit a head."""

from types import SimpleNamespace

import pytest
import torch

pytest.importorskip('mmseg', reason='the hook looks for heads of mmseg')
from mmengine.registry import HOOKS, init_default_scope
from mmengine.structures import PixelData
from mmseg.models.decode_heads import FCNHead
from mmseg.structures import SegDataSample
from torch import nn

from mmsparx.engine.hooks import label_check

HOOK = 'mmsparx.LabelCheckHook'


@pytest.fixture(scope='module')
def model():
    init_default_scope('mmseg')  # another test may have left its own
    heads = {name: FCNHead(in_channels=4, channels=4, num_classes=3) for name in ('decode_head', 'auxiliary_head')}
    return nn.ModuleDict({'module': nn.ModuleDict(heads)})  # like a wrapper


def loop(**metainfo):
    return SimpleNamespace(dataloader=SimpleNamespace(dataset=SimpleNamespace(metainfo=metainfo)))


def started(model, mode, **loops):
    """The hook, after the start of a training, a validation or a test."""
    hook = HOOKS.build(dict(type=HOOK))
    loops = {f'{name}_loop': loops.get(name) for name in ('train', 'val', 'test')}
    getattr(hook, f'before_{mode}')(SimpleNamespace(model=model, **loops))
    return hook


def check(model, labels, **metainfo):
    """Pass a batch with this label map to the hook, in several views as in a multi-scale test."""
    sample = SegDataSample(metainfo={'seg_map_path': 'a/1.png', **metainfo})
    if labels is not None:
        sample.gt_sem_seg = PixelData(data=labels)
    hook = started(model, 'test', test=loop())
    hook.before_test_iter(
        None, 0, {'inputs': [[torch.zeros(3, 2, 2)]] * 2, 'data_samples': [[SegDataSample()], [sample]]}
    )


def test_matching_classes_pass(model):
    fits = loop(classes=('a', 'b', 'c'), palette=[[0, 128, 255]] * 3)
    started(model, 'train', train=fits, val=fits)
    started(model, 'train', train=loop())  # a dataset that names no classes, and no validation
    started(model, 'val', val=fits)
    check(model, torch.tensor([[[0, 1], [2, 255]]]))
    check(model, None)


@pytest.mark.parametrize(('mode', 'where'), [('train', 'train'), ('train', 'val'), ('val', 'val'), ('test', 'test')])
def test_another_number_of_classes(model, mode, where):
    with pytest.raises(ValueError, match=r'has 2 classes, but module\.decode_head has 3\. Set num_classes'):
        started(model, mode, **{where: loop(classes=('a', 'b'))})


@pytest.mark.parametrize('colour', [[0, 0, 256], [-1, 0, 0], [0, 0]])
def test_a_palette_out_of_range(model, colour):
    with pytest.raises(ValueError, match='expected three numbers from 0 to 255'):
        started(model, 'train', train=loop(classes=('a', 'b', 'c'), palette=[[0, 0, 0], [1, 1, 1], colour]))


@pytest.mark.parametrize('label', [3, 254, -1])
def test_a_label_out_of_range(model, label):
    labels = torch.tensor([[[0, label], [2, 255]]])
    with pytest.raises(ValueError, match=rf'a/1\.png: no class has the labels \[{label}\]\. Expected 0 to 2, or 255'):
        check(model, labels)
    with pytest.raises(ValueError, match=r'higher by 1 \(reduce_zero_label\)'):
        check(model, labels, reduce_zero_label=True)


def test_colours_instead_of_labels(model):
    with pytest.raises(ValueError, match=r'a/1\.png: expected one label per pixel, got an array of shape \(2, 2, 3\)'):
        check(model, torch.zeros(2, 2, 3, dtype=torch.int64))


@pytest.mark.parametrize('mode', ['train', 'val'])
def test_every_iteration_is_checked(model, mode):
    hook = started(model, mode)
    sample = SegDataSample(gt_sem_seg=PixelData(data=torch.full((1, 2, 2), 3)))
    with pytest.raises(ValueError, match=r'no class has the labels \[3\]'):
        getattr(hook, f'before_{mode}_iter')(None, 0, {'data_samples': [sample]})


@pytest.mark.parametrize('mode', ['train', 'val', 'test'])
def test_a_model_without_heads_is_left_alone(mode):
    hook = started(nn.Linear(1, 1), mode, **{mode: loop(classes=('a', 'b'))})
    getattr(hook, f'before_{mode}_iter')(None, 0, {'data_samples': [SegDataSample()]})


def test_each_head_ignores_its_own_label():
    heads = nn.ModuleDict(
        {
            name: FCNHead(in_channels=4, channels=4, num_classes=3, ignore_index=i)
            for name, i in (('a', 255), ('b', 254))
        }
    )
    check(heads, torch.tensor([[[0, 1], [2, 2]]]))
    for label, head in ((254, 'a'), (255, 'b')):
        with pytest.raises(ValueError, match=rf'the labels \[{label}\]\. .* by {head}\.'):
            check(heads, torch.tensor([[[0, 1], [2, label]]]))


def test_mask_classification_is_checked_as_well():
    from mmseg.models.decode_heads import Mask2FormerHead

    class Head(Mask2FormerHead):  # its parts need mmdet's compiled operators
        def __init__(self):
            nn.Module.__init__(self)
            self.num_classes, self.ignore_index, self.cls_embed = 3, 255, nn.Linear(4, 4)
            self.loss_cls = nn.Module()
            self.loss_cls.class_weight = [1.0] * 3 + [0.1]

    model = nn.ModuleDict({'decode_head': Head()})
    check(model, torch.tensor([[[0, 1], [2, 255]]]))
    with pytest.raises(ValueError, match=r'no class has the labels \[3\]'):
        check(model, torch.tensor([[[0, 1], [2, 3]]]))
    with pytest.raises(ValueError, match='decode_head has 3'):
        started(model, 'train', train=loop(classes=('a', 'b')))
    model.decode_head.loss_cls.class_weight = [1.0] * 3
    with pytest.raises(ValueError, match=r'class_weight of 4 numbers, got 3\. .* and one for the background'):
        started(model, 'train')


@pytest.mark.parametrize('weights', [[1.0, 2.0], [1.0] * 4])
def test_class_weights_of_another_length(weights):
    def head(class_weight):
        return FCNHead(in_channels=4, channels=4, num_classes=3,
                       loss_decode=dict(type='CrossEntropyLoss', class_weight=class_weight))  # fmt: skip

    init_default_scope('mmseg')
    started(nn.ModuleDict({'decode_head': head([1.0] * 3)}), 'train')
    with pytest.raises(
        ValueError, match=rf'decode_head\.loss_decode: expected class_weight of 3 numbers, got {len(weights)}'
    ):
        started(nn.ModuleDict({'decode_head': head(weights)}), 'train')


def test_padding_that_is_no_ignored_label(model):
    from mmseg.models import SegDataPreProcessor

    def of(**options):
        return nn.ModuleDict({'data_preprocessor': SegDataPreProcessor(**options), 'net': model})

    started(of(size=(4, 4)), 'train')
    started(of(seg_pad_val=0), 'train')  # nothing is padded
    with pytest.raises(ValueError, match=r'pads label maps with 0 .* but net\.module\.decode_head ignores 255'):
        started(of(size=(4, 4), seg_pad_val=0), 'train')


@pytest.fixture
def logged(monkeypatch):
    lines = []
    monkeypatch.setattr(label_check, 'print_log', lambda message, **_: lines.append(message))
    return lines


def seen(model, mode, maps, size=None):
    """Run over these label maps, and yield the number of each iteration after it."""
    hook = HOOKS.build(dict(type=HOOK))
    loops = SimpleNamespace(dataloader=SimpleNamespace(dataset=Sized(size or len(maps)), batch_size=1))
    runner = SimpleNamespace(model=model, **{f'{name}_loop': loops for name in ('train', 'val', 'test')})
    getattr(hook, f'before_{mode}')(runner)
    for i, labels in enumerate(maps):
        sample = SegDataSample(gt_sem_seg=PixelData(data=torch.tensor([labels])))
        getattr(hook, f'before_{mode}_iter')(runner, i, {'data_samples': [sample]})
        getattr(hook, f'after_{mode}_iter')(runner, i, {})
        yield i
    after = hook.after_train if mode == 'train' else getattr(hook, f'after_{mode}_epoch')
    after(runner)


class Sized:
    metainfo = dict(classes=('a', 'b', 'c'))

    def __init__(self, length):
        self.length = length

    def __len__(self):
        return self.length


@pytest.mark.parametrize('mode', ['val', 'test', 'train'])
def test_a_class_that_never_occurs(model, logged, mode):
    list(seen(model, mode, [[[0, 255]], [[2, 0]]]))
    (line,) = logged
    assert line.startswith(f"{mode}: of 3 classes 1 occur in no label: 'b' (1). ")
    assert '0 and 255' in line
    assert 'reduce_zero_label' in line
    logged.clear()
    list(seen(model, mode, [[[0, 255]], [[2, 1]]]))
    assert not logged


def test_in_training_it_is_said_once_every_image_has_been_seen(model, logged):
    for i in seen(model, 'train', [[[0, 1]]] * 5, size=3):
        assert len(logged) == (i >= 2)
    assert len(logged) == 1


def test_a_test_without_labels_says_nothing(model, logged):
    hook = started(model, 'test', test=loop(classes=('a', 'b', 'c')))
    hook.before_test_iter(None, 0, {'data_samples': [SegDataSample()]})
    hook.after_test_epoch(SimpleNamespace(test_loop=loop(classes=('a', 'b', 'c'))))
    assert not logged


def test_spare_classes(model):
    hook = HOOKS.build(dict(type=HOOK, spare_classes=True))
    runner = SimpleNamespace(model=model, val_loop=loop(classes=('a', 'b')))
    hook.before_val(runner)
    runner.val_loop = loop(classes=('a', 'b', 'c', 'd'))
    with pytest.raises(ValueError, match='has 4 classes'):
        hook.before_val(runner)


def test_classes_that_are_a_word(model):
    with pytest.raises(ValueError, match=r"expected a tuple of names in metainfo\.classes, got 'cat'"):
        started(model, 'train', train=loop(classes='cat'))


class TestDetectors:
    @pytest.fixture(autouse=True)
    def _scope(self):
        pytest.importorskip('mmdet')
        init_default_scope('mmdet')

    @staticmethod
    def build(name, classes, **head):
        import mmdet
        from mmdet.registry import MODELS
        from mmengine.config import Config

        cfg = Config.fromfile(f'{mmdet.__path__[0]}/.mim/configs/_base_/models/{name}.py').model
        cfg.backbone.init_cfg = None
        if 'roi_head' in cfg:
            cfg.roi_head.bbox_head.num_classes = classes
            cfg.roi_head.bbox_head.update(head)
            cfg.roi_head.mask_head.num_classes = classes
        else:
            cfg.bbox_head.num_classes = classes
        with torch.device('meta'):
            return MODELS.build(cfg)

    @pytest.mark.parametrize('name', ['retinanet_r50_fpn', 'mask-rcnn_r50_fpn'])
    def test_classes_of_the_heads(self, name):
        """The RPN's are not checked: it separates objects from background."""
        detector = self.build(name, 3)
        started(detector, 'train', train=loop(classes=('a', 'b', 'c')))
        for classes in (('a', 'b'), ('a', 'b', 'c', 'd')):
            with pytest.raises(
                ValueError, match=rf'has {len(classes)} classes, but .*bbox_head has 3\. Set num_classes'
            ):
                started(detector, 'test', test=loop(classes=classes))

    def test_masks_of_no_class(self):
        detector = self.build('mask-rcnn_r50_fpn', 3)
        detector.roi_head.mask_head.num_classes = 80
        with pytest.raises(ValueError, match='mask_head has 80'):
            started(detector, 'train', train=loop(classes=('a', 'b', 'c')))
        detector.roi_head.mask_head.class_agnostic = True
        started(detector, 'train', train=loop(classes=('a', 'b', 'c')))

    def test_class_weights_have_one_for_the_background(self):
        weighted = dict(type='CrossEntropyLoss', class_weight=[1.0] * 4)
        started(self.build('mask-rcnn_r50_fpn', 3, loss_cls=weighted), 'train')
        weighted['class_weight'] = [1.0] * 3
        with pytest.raises(ValueError, match=r'bbox_head\.loss_cls: expected class_weight of 4 numbers, got 3'):
            started(self.build('mask-rcnn_r50_fpn', 3, loss_cls=weighted), 'train')


class TestClassifiers:
    @pytest.fixture(autouse=True)
    def _scope(self):
        pytest.importorskip('mmpretrain')
        init_default_scope('mmpretrain')

    @staticmethod
    def build(classes, mixed=None, augments=None):
        from mmpretrain.models import ClsDataPreprocessor, LinearClsHead

        batch = dict(augments=augments) if augments else None
        parts = {
            'head': LinearClsHead(classes, 4),
            'data_preprocessor': ClsDataPreprocessor(num_classes=mixed, batch_augments=batch),
        }
        return nn.ModuleDict(parts)

    @pytest.mark.parametrize('classes', [2, 16])
    def test_classes_of_the_head(self, classes):
        started(self.build(classes), 'train', train=loop(classes=range(classes)))
        with pytest.raises(ValueError, match=rf'has 3 classes, but head has {classes}'):
            started(self.build(classes), 'train', train=loop(classes=('a', 'b', 'c')))

    def test_classes_of_the_preprocessor_where_labels_are_mixed(self):
        three = loop(classes=('a', 'b', 'c'))
        started(self.build(3, mixed=1000), 'train', train=three)  # the preprocessor's number is not used
        mixup = [dict(type='Mixup', alpha=0.8)]
        started(self.build(3, mixed=3, augments=mixup), 'train', train=three)
        with pytest.raises(ValueError, match=r'data_preprocessor has 1000\. Set num_classes .* of data_preprocessor'):
            started(self.build(3, mixed=1000, augments=mixup), 'train', train=three)

    @pytest.mark.parametrize(('classes', 'label'), [(3, 3), (3, -1), (1000, 1000)])
    def test_a_label_that_is_no_class(self, classes, label):
        from mmpretrain.structures import DataSample

        hook = started(self.build(classes), 'train')
        good, bad = (DataSample(metainfo=dict(img_path='a/1.png')).set_gt_label(x) for x in (classes - 1, label))
        hook.before_train_iter(None, 0, {'data_samples': [good]})
        with pytest.raises(
            ValueError, match=rf'a/1\.png: no class has the labels \[{label}\]\. Expected 0 to {classes - 1}, by'
        ):
            hook.before_train_iter(None, 0, {'data_samples': [good, bad]})
