"""Files that a test writes besides metrics: drawings, and predictions."""

import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import torch

pytest.importorskip('mmcv', reason='images are read by mmcv')
from helpers.configs import CONFIGS
from mmengine.config import Config
from mmengine.registry import HOOKS, METRICS
from mmengine.structures import BaseDataElement, InstanceData
from mmengine.visualization import Visualizer

from mmsparx.engine.predictions import (
    DET_VISUALIZER,
    DrawPredictionsHook,
    DumpPredictions,
    draw_predictions,
    dump_predictions,
    with_header,
    without_doubles,
)


def config(**hook):
    return Config(dict(default_hooks=dict(visualization=hook)))


@pytest.mark.parametrize(
    ('hook', 'method', 'settings'),
    [
        (dict(type='DetVisualizationHook', score_thr=0.5, interval=9), 'add_datasample', dict(pred_score_thr=0.5)),
        (dict(type='mmdet.DetVisualizationHook', priority=60), 'add_datasample', dict(priority=60)),
        (dict(type='mmseg.engine.hooks.SegVisualizationHook', draw=False), 'add_datasample', {}),
        (dict(type='SegVisualizationHook', backend_args=None), 'add_datasample', dict(backend_args=None)),
        (dict(type='VisualizationHook', enable=False, draw_gt=False), 'visualize_cls', dict(draw_gt=False)),
        (dict(type='mmpretrain.VisualizationHook', out_dir='elsewhere', resize=64), 'visualize_cls', dict(resize=64)),
    ],
)
def test_the_libraries_hooks_are_replaced(hook, method, settings):
    cfg = config(**hook)
    draw_predictions(cfg, 'shown')
    drawing = cfg.default_hooks.visualization.to_dict()
    assert HOOKS.get(drawing.pop('type')) is DrawPredictionsHook
    assert drawing == dict(out_dir='shown', method=method, **settings)


def test_a_hook_given_as_a_class():
    pytest.importorskip('mmdet', reason='the example is a detector')
    cfg = Config.fromfile(CONFIGS / 'detection/examples/mask_rcnn_sparx_t_1x_lazy.py')
    draw_predictions(cfg, 'shown')
    assert HOOKS.get(cfg.default_hooks.visualization.type) is DrawPredictionsHook
    assert cfg.default_hooks.visualization.method == 'add_datasample'


@pytest.mark.parametrize('kind', ['PoseVisualizationHook', 'mmpose.VisualizationHook', 'MyDetVisualizationHook'])
def test_another_hook_is_refused(kind):
    known = 'mmdet.DetVisualizationHook, mmseg.SegVisualizationHook, mmpretrain.VisualizationHook'
    with pytest.raises(ValueError, match=f'--show-dir: expected .* to be one of {known}, got {kind}'):
        draw_predictions(config(type=kind), 'shown')


@pytest.mark.parametrize('hooks', [{}, dict(default_hooks={}), dict(default_hooks=dict(visualization=None))])
def test_a_config_that_draws_nothing_is_refused(hooks):
    with pytest.raises(ValueError, match=r'--show-dir: the config has no default_hooks\.visualization'):
        draw_predictions(Config(hooks), 'shown')


class Images:
    def __init__(self, *paths):
        self.infos = [dict(img_path=str(path)) if path else {} for path in paths]

    def __len__(self):
        return len(self.infos)

    def get_data_info(self, index):
        return self.infos[index]


def start(hook, *paths):
    hook.before_test(SimpleNamespace(test_loop=SimpleNamespace(dataloader=SimpleNamespace(dataset=Images(*paths)))))


def test_tested_images_are_not_overwritten(tmp_path):
    hook = DrawPredictionsHook(str(tmp_path / 'links'))
    (tmp_path / 'val').mkdir()
    (tmp_path / 'links').symlink_to(tmp_path / 'val')
    with pytest.raises(ValueError, match=r'links holds the images that are tested\. Name another folder'):
        start(hook, tmp_path / 'val/a/0.png', tmp_path / 'val/b/0.png')
    start(hook, tmp_path / 'val/a/0.png', tmp_path / 'other/b/0.png')


def test_drawings_do_not_mix_with_tested_images(tmp_path):
    """Below a tested image's folder, below a folder of classes, and through a link to an image."""
    folder = tmp_path / 'val'
    images = [folder / 'cat/0.png', folder / 'dog/0.png']
    for image in images:
        image.parent.mkdir(parents=True)
        image.write_text('an original')
    with pytest.raises(ValueError, match=r'--show-dir: .*drawn lies in .*cat, where results would mix with images'):
        start(DrawPredictionsHook(str(folder / 'cat/drawn')), images[0])
    hook = DrawPredictionsHook(str(folder / 'drawn'))
    dataset = Images(*images)
    dataset.data_prefix = {'img_path': str(folder)}
    wrapped = Images(*images)
    wrapped.dataset = dataset
    for each in (dataset, wrapped):
        with pytest.raises(ValueError, match=r'--show-dir: .*drawn lies in .*val, where results would mix with images'):
            hook.before_test(SimpleNamespace(test_loop=SimpleNamespace(dataloader=SimpleNamespace(dataset=each))))
    (tmp_path / 'drawn/cat').mkdir(parents=True)
    (tmp_path / 'drawn/cat/0.png').hardlink_to(images[1])
    with pytest.raises(ValueError, match=r'drawn/cat/0\.png is the input .*dog/0\.png, and would be overwritten'):
        start(DrawPredictionsHook(str(tmp_path / 'drawn')), *images)
    with pytest.raises(
        ValueError, match=r'the results of .*0\.png and .*0\.png would have the same name, .*elsewhere/0\.png'
    ):
        start(DrawPredictionsHook(str(tmp_path / 'elsewhere')), images[0], images[0])
    assert [image.read_text() for image in images] == ['an original'] * 2


def test_results_that_cannot_be_written_end_the_run_before_the_test(tmp_path):
    (tmp_path / 'file').touch()
    cfg = Config(dict(test_evaluator=dict(type='IoUMetric'), load_from=str(tmp_path / 'a.pkl')))
    with pytest.raises(OSError, match='--out cannot be written to; make room there, or name another place'):
        dump_predictions(cfg, str(tmp_path / 'file/out.pkl'))
    with pytest.raises(OSError, match='--show-dir cannot be written to'):
        start(DrawPredictionsHook(str(tmp_path / 'file/drawn')), tmp_path / 'val/0.png')
    (tmp_path / 'folder.pkl').mkdir()
    with pytest.raises(ValueError, match=r'--out: expected the name of a file, got the folder .*folder\.pkl'):
        dump_predictions(cfg, str(tmp_path / 'folder.pkl'))
    (tmp_path / 'a.pkl').touch()
    (tmp_path / 'b.pkl').symlink_to('a.pkl')
    with pytest.raises(ValueError, match=r'--out: .*b\.pkl is the checkpoint, and would be overwritten'):
        dump_predictions(cfg, str(tmp_path / 'b.pkl'))


def test_images_without_a_file_are_refused(tmp_path):
    with pytest.raises(ValueError, match='expected images in files; Images holds some that are in none'):
        start(DrawPredictionsHook(str(tmp_path)), 'a/0.png', None)


@pytest.mark.parametrize('evaluator', [dict(type='IoUMetric'), [dict(type='IoUMetric')]])
def test_the_dump_joins_the_metrics(evaluator):
    cfg = Config(dict(test_evaluator=evaluator))
    dump_predictions(cfg, 'out.pkl')
    metric, dump = cfg.test_evaluator
    assert metric == dict(type='IoUMetric')
    assert METRICS.get(dump['type']) is DumpPredictions
    with pytest.raises(ValueError, match=r"--out: expected a name that ends in \.pkl or \.pickle, got 'out\.npy'"):
        dump_predictions(cfg, 'out.npy')


def detected(boxes, scores, labels, **more):
    instances = InstanceData(
        bboxes=torch.tensor(boxes), scores=torch.tensor(scores), labels=torch.tensor(labels), **more
    )
    return BaseDataElement(pred_instances=instances, metainfo=dict(img_path='a.png'))


class TestDoubles:
    boxes = [[0.0, 0, 10, 10], [50, 50, 60, 60], [0, 0, 10, 9], [0, 0, 10, 5]]  # IoU with the first: 0, 0.9, 0.5

    def test_of_several_classes_on_one_object_the_best_is_drawn(self):
        masks = torch.zeros(4, 64, 64, dtype=torch.bool)
        sample = detected(self.boxes, [0.4, 0.3, 0.9, 0.35], [0, 1, 2, 3], masks=masks)
        drawn = without_doubles(sample)
        assert drawn.pred_instances.labels.tolist() == [1, 2, 3]
        assert len(drawn.pred_instances.masks) == 3
        assert drawn.img_path == 'a.png'
        assert sample.pred_instances.labels.tolist() == [0, 1, 2, 3]  # metrics and files have them all

    @pytest.mark.parametrize(('overlap', 'left'), [(0.95, 4), (0.6, 3), (0.4, 2), (1, 4)])
    def test_the_overlap(self, overlap, left):
        drawn = without_doubles(detected(self.boxes, [0.9, 0.8, 0.7, 0.6], [0, 0, 1, 1]), overlap)
        assert len(drawn.pred_instances) == left

    def test_results_without_boxes_are_unchanged(self):
        rotated = detected([[5.0, 5, 10, 10, 0]] * 2, [0.9, 0.8], [0, 1])
        for sample in (BaseDataElement(), rotated):
            assert without_doubles(sample) is sample
        nothing = InstanceData(
            bboxes=torch.zeros(0, 4), scores=torch.zeros(0), labels=torch.zeros(0, dtype=torch.int64)
        )
        assert len(without_doubles(BaseDataElement(pred_instances=nothing)).pred_instances) == 0
        dummies = detected([[0.0] * 4] * 3, [0.9, 0.8, 0.7], [0, 1, 2])  # of a network of masks alone
        assert len(without_doubles(dummies).pred_instances) == 3


@pytest.mark.parametrize('width', [64, 300, 1280])
def test_a_header_names_the_columns(width):
    drawn = np.random.default_rng(0).integers(0, 255, (48, 2 * width, 3), dtype=np.uint8)
    titled = with_header(Visualizer(), drawn, ('ground truth', 'prediction'))
    assert np.array_equal(titled[-48:], drawn)
    header = titled[:-48]
    assert 8 < len(header) < 40
    for half in (header[:, :width], header[:, width:]):
        dark = (half < 128).any((0, 2)).nonzero()[0]
        assert 0 < dark[0] < dark[-1] < width - 1  # it fits
        assert abs(dark[0] + dark[-1] - width) < 0.1 * width + 3  # in the middle


class TestColours:
    """With mmdet's visualizer each class has one colour, whatever else is drawn."""

    classes = ('a', 'b', 'c')

    @pytest.fixture
    def colours(self):
        pytest.importorskip('mmdet')
        from mmdet.structures import DetDataSample
        from mmengine.registry import VISUALIZERS

        cfg = config(type='mmdet.DetVisualizationHook')
        cfg.visualizer = dict(type='mmdet.DetLocalVisualizer')
        draw_predictions(cfg, 'shown')
        assert cfg.visualizer.type == DET_VISUALIZER

        def run(labels, palette):
            """The colour at the centre of each label's mask, in the ground truth and in the prediction."""
            visualizer = VISUALIZERS.get(DET_VISUALIZER)(line_width=1)
            visualizer.dataset_meta = dict(classes=self.classes, palette=palette)
            boxes = [[4.0 + 40 * i, 4, 36 + 40 * i, 60] for i in range(len(labels))]
            masks = np.zeros((len(labels), 64, 40 * len(labels)), bool)
            for i in range(len(labels)):
                masks[i, 4:60, 4 + 40 * i : 36 + 40 * i] = True
            given = dict(bboxes=torch.tensor(boxes), labels=torch.tensor(labels), masks=torch.tensor(masks))
            sample = DetDataSample(gt_instances=InstanceData(**given))
            sample.pred_instances = InstanceData(**given, scores=torch.full((len(labels),), 0.9))
            image = np.full((64, 40 * len(labels), 3), 128, np.uint8)
            visualizer.add_datasample('a', image, sample)
            both = np.split(visualizer.get_image(), 2, axis=1)
            return [[tuple(half[45, 20 + 40 * i]) for i in range(len(labels))] for half in both]

        return run

    @pytest.mark.parametrize('palette', [[(250, 0, 0), (0, 250, 0), (0, 0, 250)], 'random', None])
    def test_of_a_class(self, colours, palette):
        truth, prediction = colours([0, 1, 2, 0], palette)
        assert truth == prediction
        assert truth[0] == truth[3]
        assert len(set(truth)) == 3
        assert [colours([label], palette)[0][0] for label in range(3)] == truth[:3]  # in other images, too
        if isinstance(palette, list):
            assert [np.argmax(colour) for colour in truth[:3]] == [0, 1, 2]


@pytest.fixture
def dumped(tmp_path):
    """The contents of a file of predictions, which stay unchanged themselves."""

    def run(*predictions):
        before = [list(each) for each in predictions]
        metric = DumpPredictions(str(tmp_path / 'out.pkl'))
        for each in predictions:
            metric.process(None, [each])
        metric.evaluate(len(predictions))
        assert [list(each) for each in predictions] == before
        return pickle.loads((tmp_path / 'out.pkl').read_bytes())

    return run


def test_a_segmentation_is_kept_as_label_maps(dumped, tmp_path):
    logits = torch.randn(150, 64, 96)
    label_map = logits.argmax(0, keepdim=True)
    annotated = dict(data=torch.zeros_like(label_map))
    whole = dict(
        seg_logits=dict(data=logits), pred_sem_seg=dict(data=label_map), gt_sem_seg=annotated, img_path='a.png'
    )
    results = dumped(*(dict(whole) for _ in range(3)))
    assert [result.keys() for result in results] == [{'pred_sem_seg', 'img_path'}] * 3
    assert all(result['pred_sem_seg']['data'].long().equal(label_map) for result in results)
    assert (tmp_path / 'out.pkl').stat().st_size / 3 < 3 * 64 * 96  # two bytes per pixel, and names
    assert whole['pred_sem_seg']['data'] is label_map  # other metrics see it unchanged


def test_masks_of_instances_are_encoded(dumped):
    coder = pytest.importorskip('pycocotools.mask', reason='of detections alone')
    pytest.importorskip('mmdet', reason='mmdet encodes the masks')
    masks = torch.zeros(2, 20, 30, dtype=torch.bool)
    masks[0, 3:9, 4:20] = masks[1, :, 7] = True
    instances = dict(masks=masks, scores=torch.tensor([0.9, 0.1]))
    (result,) = dumped(dict(pred_instances=instances, gt_instances=dict(masks=masks), img_id=7))
    assert result.keys() == {'pred_instances', 'img_id'}
    assert result['pred_instances']['scores'].equal(instances['scores'])
    decoded = np.stack([coder.decode(mask) for mask in result['pred_instances']['masks']])
    assert np.array_equal(decoded, masks.numpy())
    assert instances['masks'] is masks


def test_small_results_are_unchanged(dumped):
    sample = BaseDataElement(metainfo=dict(img_path='a.png'), pred_score=torch.rand(5), gt_label=torch.tensor([2]))
    (result,) = dumped(sample.to_dict())
    assert result['pred_score'].equal(sample.pred_score)
    assert result['gt_label'].equal(sample.gt_label)
