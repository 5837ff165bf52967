"""`mmsparx export`, and `mmsparx infer --model` on its files: the results are those of the checkpoint."""

import json
from contextlib import nullcontext

import cv2
import numpy as np
import pytest
import torch

pytest.importorskip('mmcv', reason='images are prepared by it')
pytest.importorskip('onnxscript', reason='networks are exported by it')
pytest.importorskip('onnxruntime', reason='it runs the files')
import onnx
from helpers import randomise
from helpers.tools import ROOT, run_command
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch.nn import functional as F

from mmsparx.__main__ import main
from mmsparx.engine import calibration
from mmsparx.engine.exported import outputs
from mmsparx.export.description import Description
from mmsparx.export.detection import matches
from mmsparx.ops import native

# The backbone has few layers, since tracing with open sizes takes seconds per layer.
BACKBONE = (
    'backbone=dict(arch=dict(_delete_=True, channels=[8, 16], stages=[dict(depth=1), dict(depth=1)]), out_indices={})'
)
NAMES = ('circle', 'triangle', 'square', 'star')


@pytest.fixture
def image(tmp_path):
    """A folder with one image."""
    low = np.random.default_rng(0).integers(0, 255, (3, 5, 3), dtype=np.uint8)
    (tmp_path / 'images').mkdir()
    cv2.imwrite(str(tmp_path / 'images/a.png'), cv2.resize(low, (80, 48), interpolation=cv2.INTER_NEAREST))
    return tmp_path / 'images'


def test_a_classifier_in_8_bits(tmp_path, image, capsys):
    pytest.importorskip('mmpretrain', reason='the classifier is one of it')
    text = f'model = dict({BACKBONE.format("(1,)")}, head=dict(in_channels=16))\n'
    network = write(tmp_path, 'classification/sparx_mamba_mini_digits.py', text, [f'n{i}' for i in range(10)])
    file = tmp_path / 'network.onnx'
    options = ['--to', 'onnx', '--static', '32x32', '--out', str(file)]
    assert main(['export', *network, *options, '--int8', str(image)]) == 0
    small = file.with_suffix('.int8.onnx')
    assert f'wrote {small}' in capsys.readouterr().out
    assert {node.op_type for node in onnx.load(small).graph.node} >= {'QuantizeLinear', 'DequantizeLinear', 'SS2DScan'}
    scores = []
    for name in (file, small):
        assert run_command('infer', image, '--model', name, '--out-dir', tmp_path / name.stem) == 0
        scores.append(json.loads((tmp_path / name.stem / 'predictions/a.json').read_text())['pred_scores'])
    assert 1e-6 < np.abs(np.subtract(*scores)).max() < 0.1
    unread = tmp_path / 'unread'
    unread.mkdir()
    (unread / 'a.png').write_bytes(b'no image')
    file.unlink()
    for folder, message in (('nowhere', 'no folder nowhere'), (unread, f'none of 1 images in {unread} can be read')):
        assert main(['export', *network, *options, '--int8', str(folder)]) == 1
        assert f'--int8: {message}' in capsys.readouterr().err
    assert not file.exists()  # the error comes before the export
    assert main(['export', *network, '--to', 'pt2', '--int8', str(image)]) == 1
    assert '--int8: expected --to onnx, got --to pt2' in capsys.readouterr().err


@torch.no_grad()
def spread_classes(segmenter):
    """Give each class a mean logit of 0 over an image of patches, so that none has all pixels."""
    patches = torch.rand(1, 3, 3, 5, generator=torch.Generator().manual_seed(0)) * 4 - 2
    logits = segmenter.eval().decode_head(segmenter.extract_feat(F.interpolate(patches, (64, 96))))
    segmenter.decode_head.conv_seg.bias -= logits.mean((0, 2, 3))


@torch.no_grad()
def keep_boxes(detector):
    """Keep boxes near their anchors, and about half of a mask foreground."""
    head = detector.roi_head
    for layer in (detector.rpn_head.rpn_reg, head.bbox_head.fc_reg):
        layer.weight *= 0.05
        layer.bias.zero_()
    head.mask_head.conv_logits.weight -= head.mask_head.conv_logits.weight.mean(1, keepdim=True)
    head.mask_head.conv_logits.bias.zero_()


def write(tmp_path, base, text, classes):
    """A config over a base, and a checkpoint of it."""
    config, checkpoint = tmp_path / 'config.py', tmp_path / 'weights.pth'
    config.write_text(f'_base_ = {str(ROOT / "configs" / base)!r}\n{text}')
    cfg = Config.fromfile(config)
    init_default_scope(cfg.default_scope)
    preprocessor = {'data_preprocessor': cfg.data_preprocessor} if 'data_preprocessor' in cfg else {}
    model = randomise(MODELS.build({**preprocessor, **cfg.model}))
    if hasattr(model, 'decode_head'):
        spread_classes(model)
    if hasattr(model, 'roi_head'):
        keep_boxes(model)
    palette = [(i * 20, 255 - i * 20, 90) for i in range(len(classes))]
    meta = {'dataset_meta': {'classes': classes, 'palette': palette}}
    torch.save({'state_dict': model.state_dict(), 'meta': meta}, checkpoint)
    return str(config), str(checkpoint)


def compare(tmp_path, image, network, *options, kind='onnx', suffix='.onnx'):
    """Results from the checkpoint and from the file: pairs of predictions, and of drawings."""
    file = tmp_path / f'network{suffix}'
    assert main(['export', *network, '--to', kind, '--out', str(file), *options]) == 0
    assert run_command('infer', image, *network, '--device', 'cpu', '--out-dir', tmp_path / 'torch') == 0
    assert run_command('infer', image, '--model', file, '--out-dir', tmp_path / 'file') == 0
    predictions = [json.loads((tmp_path / name / 'predictions/a.json').read_text()) for name in ('file', 'torch')]
    return predictions, [cv2.imread(str(tmp_path / name / 'images/a.png')) for name in ('file', 'torch')]


@pytest.mark.parametrize(('kind', 'suffix'), [('onnx', '.onnx'), ('openvino', '.xml'), ('pt2', '.pt2')])
def test_a_classifier(kind, suffix, tmp_path, image, capsys):
    pytest.importorskip('mmpretrain', reason='the classifier is one of it')
    if kind == 'openvino':
        pytest.importorskip('openvino', reason='it runs the file')
    text = f'model = dict({BACKBONE.format("(1,)")}, head=dict(in_channels=16))\n'
    network = write(tmp_path, 'classification/sparx_mamba_mini_digits.py', text, [f'n{i}' for i in range(10)])
    (found, expected), drawings = compare(tmp_path, image, network, '--static', '32x32', kind=kind, suffix=suffix)
    said = capsys.readouterr().out
    assert 'largest error' in said
    runtime = {'onnx': 'onnxruntime', 'openvino': 'OpenVINO', 'pt2': 'torch.export'}[kind]
    library = ' with mmsparx' if kind == 'onnx' and native.without_ort() is None else ''
    assert f'network{suffix} runs in {runtime}{library}\n' in said
    assert found.keys() == expected.keys()
    np.testing.assert_allclose(found['pred_scores'], expected['pred_scores'], atol=1e-5)
    assert found['pred_class'] == expected['pred_class']
    np.testing.assert_array_equal(*drawings)
    about = json.loads((tmp_path / 'network.json').read_text())
    assert (about['task'], about['mean'], about['channels']) == ('classification', [127.5] * 3, 'RGB')
    assert about['classes'] == [f'n{i}' for i in range(10)]


@pytest.mark.parametrize('kind', ['fpn', 'upernet'])
def test_a_segmenter(kind, tmp_path, image):
    pytest.importorskip('mmseg', reason='the segmenter is one of it')
    heads = {
        'fpn': 'neck=dict(in_channels=[8, 16], out_channels=8, num_outs=2), decode_head=dict(num_classes=4, '
        'in_channels=[8] * 2, in_index=[0, 1], feature_strides=[4, 8], channels=8)',
        'upernet': 'decode_head=dict(num_classes=4, in_channels=[8, 16], in_index=[0, 1], channels=8), '
        'auxiliary_head=None',
    }
    text = f'model = dict({BACKBONE.format("(0, 1)")}, {heads[kind]})\n'
    network = write(tmp_path, f'segmentation/{kind}_sparx_mini_overfit.py', text, NAMES)
    (found, expected), drawings = compare(tmp_path, image, network)
    assert found.keys() == expected.keys()
    for name, share in expected['shares'].items():
        assert found['shares'][name] == pytest.approx(share, abs=1e-3)
    labels = [cv2.imread(str(tmp_path / name / 'labels/a.png'), -1) for name in ('file', 'torch')]
    assert (labels[0] == labels[1]).mean() > 0.999
    assert len(np.unique(labels[1])) > 1
    assert (drawings[0] == drawings[1]).mean() > 0.99


DETECTOR = """
model = dict(
    backbone=dict(arch=dict(_delete_=True, channels=[8, 8, 8, 8], stages=[dict(depth=1)] * 4)),
    neck=dict(in_channels=[8, 8, 8, 8], out_channels=8),
    rpn_head=dict(in_channels=8, feat_channels=8),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=8),
        bbox_head=dict(in_channels=8, fc_out_channels=16, num_classes=4),
        mask_roi_extractor=dict(out_channels=8),
        mask_head=dict(in_channels=8, conv_out_channels=8, num_convs=1, num_classes=4),
    ),
    test_cfg=dict(rpn=dict(nms_pre=100, max_per_img=60), rcnn=dict(max_per_img=30)),
)
"""


def test_a_detector(tmp_path, image):
    pytest.importorskip('mmdet', reason='the detector is one of it')
    from pycocotools import mask as coco

    network = write(tmp_path, 'detection/mask_rcnn_sparx_mini_overfit.py', DETECTOR, NAMES)
    (found, expected), drawings = compare(tmp_path, image, network)
    assert found.keys() == expected.keys()
    lists = [[np.array(each[key]) for key in ('bboxes', 'scores', 'labels')] for each in (found, expected)]
    pairs = list(matches(*lists, 1e-4))
    assert len(pairs) >= 0.9 * len(expected['labels']) >= 9
    for i, j in pairs:
        assert (coco.decode(found['masks'][i]) == coco.decode(expected['masks'][j])).mean() > 0.999
        assert found['classes'][i] == expected['classes'][j]
    assert np.mean([coco.decode(mask).mean() for mask in expected['masks']]) > 0.005
    assert (drawings[0] == drawings[1]).mean() > 0.99
    assert json.loads((tmp_path / 'network.json').read_text())['mask_threshold'] == 0.5


@pytest.mark.parametrize(
    ('task', 'shapes', 'message'),
    [
        ('classification', [(1, 3)], None),
        ('classification', [(1, 2)], 'names 3 classes, and the file has 2'),
        ('classification', [(1, 3, 8, 8)], r'task classification, whose outputs are others than \(1, 3, 8, 8\)'),
        ('segmentation', [(1, 4, 8, 8)], 'names 3 classes, and the file has 4'),
        ('segmentation', [(1, 3)], 'task segmentation'),
        ('detection', [(2, 4), (2,), (2,), (2, 28, 28)], None),
        ('detection', [(0, 4), (0,), (0,)], None),
        ('detection', [(1, 3, 8, 8)], 'task detection'),
        ('detection', [(4, 4), (4,), (4,)], 'names 3 classes, and the file has at least 4'),
    ],
)
def test_a_description_of_another_file_is_refused(task, shapes, message):
    """The labels of the detections are 0, 1, 2 and so on."""
    found = [np.arange(np.prod(shape)).reshape(shape) for shape in shapes]
    about = Description(task, classes=('a', 'b', 'c'))
    with pytest.raises(ValueError, match=message) if message else nullcontext():
        assert outputs(lambda image: found, np.zeros((1, 3, 8, 8), np.float32), about) is found


def test_calibration_reads_images_that_are_spread_over_the_folder(tmp_path, monkeypatch):
    for i in range(100):
        (tmp_path / f'{i:02d}.png').write_bytes(b'')
    read = []
    monkeypatch.setattr(calibration, 'read_image', lambda path: read.append(int(path.stem)) or len(read) % 2 or None)
    assert len(calibration.calibration_images(tmp_path)) == 32
    assert (read[0], read[-1], len(read)) == (0, 99, 64)


def test_refusals_of_the_commands(tmp_path, image, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(['infer', str(image), '--model', 'no.onnx']) == 1
    assert 'no file no.json' in capsys.readouterr().err
    assert main(['infer', str(image)]) == 1
    assert 'expected CONFIG and CHECKPOINT, or --model FILE' in capsys.readouterr().err
    assert main(['infer', str(image), 'config.py', '--model', 'no.onnx']) == 1
    assert 'expected an exported file alone' in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        main(['export', 'sparx_mamba_mini_digits', 'no.pth', '--to', 'onnx', '--static', '224'])
    assert ended.value.code == 2
    assert 'expected a height and a width in pixels, as in 224x224' in capsys.readouterr().err
