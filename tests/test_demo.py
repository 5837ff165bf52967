"""The demo: its images, its curves, and a whole run on a very small scale."""

import filecmp
import importlib.util
import io
import json
import os
import re
import signal
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip('mmdet', reason='the demo needs mmdet')
from helpers.tools import run_script
from mmengine.config import Config
from PIL import Image
from pycocotools.coco import COCO

ROOT = Path(__file__).parents[1]
CURVES = 'tools/analysis_tools/plot_curves.py'
SHAPES = 'demo/make_shapes.py'
TRAINING = '{"lr": 0.1, "loss": 2.0, "loss_mask": 1.0, "time": 1.0, "iter": 20, "step": 20}'
VALIDATION = '{"coco/segm_mAP": 0.5, "coco/segm_mAP_50": 0.6, "time": 1.0, "step": 1}'


def call(script: str, *arguments: object) -> subprocess.CompletedProcess:
    """Run a script in this process."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with redirect_stdout(out), redirect_stderr(err):
        try:
            run_script(ROOT / script, *arguments)
        except SystemExit as ended:
            code = ended.code
    return subprocess.CompletedProcess([script, *arguments], code, out.getvalue(), err.getvalue())


def load(script: str):
    spec = importlib.util.spec_from_file_location(Path(script).stem, ROOT / script)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look up their module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope='module')
def shapes(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp('shapes')
    done = call(SHAPES, root, '--train', 12, '--val', 8, '--size', 96)
    assert done.returncode == 0, done.stderr
    return root


@pytest.mark.parametrize(('split', 'count'), [('train', 12), ('val', 8)])
def test_annotations_are_those_of_the_visible_parts(shapes, split, count):
    coco = COCO(str(shapes / f'annotations/instances_{split}.json'))
    assert len(coco.imgs) == count
    for image in coco.imgs.values():
        with Image.open(shapes / split / image['file_name']) as image_read:
            assert image_read.size == (image['width'], image['height']) == (96, 96)
        covered = np.zeros((96, 96), int)
        for annotation in coco.imgToAnns[image['id']]:
            mask = coco.annToMask(annotation)
            rows, columns = mask.any(1).nonzero()[0], mask.any(0).nonzero()[0]
            x, y, width, height = annotation['bbox']
            assert (x, y) == (columns[0], rows[0])
            assert (x + width - 1, y + height - 1) == (columns[-1], rows[-1])
            assert annotation['area'] == mask.sum() > 0
            assert annotation['iscrowd'] == 0
            covered += mask
        assert 0 < covered.max() <= 1  # where two shapes overlap, one hides the other


def test_no_image_is_in_both_splits(shapes):
    seeds, pixels = [], []
    for split in ('train', 'val'):
        coco = json.loads((shapes / f'annotations/instances_{split}.json').read_text())
        seeds.append({tuple(image['seed']) for image in coco['images']})
        pixels.append({(shapes / split / image['file_name']).read_bytes() for image in coco['images']})
    assert [len(s) for s in seeds] == [len(p) for p in pixels] == [12, 8]
    assert not seeds[0] & seeds[1]
    assert not pixels[0] & pixels[1]


def test_the_same_arguments_draw_the_same_set(shapes, tmp_path):
    assert call(SHAPES, tmp_path, '--train', 4, '--val', 8, '--size', 96).returncode == 0
    names = [f'{i:06d}.jpg' for i in range(4)]
    assert filecmp.cmpfiles(shapes / 'train', tmp_path / 'train', names, shallow=False)[0] == names
    val = 'annotations/instances_val.json'
    assert (shapes / val).read_text() == (tmp_path / val).read_text()


def test_every_kind_of_shape_is_drawn_and_known_to_the_config():
    make_shapes = load(SHAPES)
    labels = {label for number in range(30) for label in make_shapes.draw((0, 0, number), 64).labels}
    assert labels == set(range(len(make_shapes.CLASSES)))
    cfg = Config.fromfile(ROOT / 'configs/detection/mask_rcnn_sparx_shapes.py')
    assert cfg.metainfo.classes == make_shapes.CLASSES
    heads = cfg.model.roi_head
    assert heads.bbox_head.num_classes == heads.mask_head.num_classes == len(make_shapes.CLASSES)


def test_a_set_is_written_over_with_force_alone(tmp_path):
    own = tmp_path / 'train/000000.jpg'
    own.parent.mkdir()
    own.write_text('an image of the user')
    refused = call(SHAPES, tmp_path, '--train', 1, '--val', 1, '--size', 64)
    assert refused.returncode == 2
    assert f'{tmp_path} is not empty; name another folder, or overwrite its files with --force' in refused.stderr
    assert own.read_text() == 'an image of the user'
    assert call(SHAPES, tmp_path, '--train', 1, '--val', 1, '--size', 64, '--force').returncode == 0
    with Image.open(own) as image_read:
        assert image_read.size == (64, 64)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--train', '0'], 'count: expected at least 1, got 0'),
        (['--val', 'many'], "invalid int value: 'many'"),
    ],
)
def test_bad_arguments_of_the_generator(arguments, message, tmp_path):
    done = call(SHAPES, tmp_path, '--train', '1', '--val', '1', *arguments)
    assert done.returncode == 2
    assert message in done.stderr


def test_the_demo_ends_with_figures_images_and_a_verdict(tmp_path):
    options = {
        'train_cfg.max_iters': 2,
        'train_cfg.val_interval': 2,
        'default_hooks.checkpoint.interval': 2,
        'default_hooks.logger.interval': 1,
        'train_dataloader.batch_size': 2,
    }
    overrides = [f'{key}={value}' for key, value in options.items()]
    command = [sys.executable, ROOT / 'demo/run_demo.py', '--train', '4', '--val', '4', '--cfg-options', *overrides]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1, done.stdout + done.stderr
    assert re.search(r'below the 0\.7 ', done.stderr)
    for expected in (r'step +1 of 2 +loss', r'validation: box AP 0\.', r'\nbox AP 0\.\d+, mask AP 0\.\d+ '):
        assert re.search(expected, done.stdout), done.stdout
    out = tmp_path / 'work_dirs/demo'
    assert len(list((out / 'predictions').iterdir())) == 4
    for name in ('predictions.png', 'curve.png'):
        with Image.open(out / name) as image_read:
            assert min(image_read.size) > 100


def test_the_demo_stops_at_ctrl_c(tmp_path):
    with subprocess.Popen(
        [sys.executable, ROOT / 'demo/run_demo.py', '--train', '100000'],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A test run may be a shell's background job, which ignores Ctrl-C, and so would its children.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    ) as process:
        while 'train: 250 of' not in process.stdout.readline():
            assert process.poll() is None, process.stderr.read()
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert 'Stopped' in out
    assert err == ''


@pytest.mark.parametrize(
    ('content', 'arguments', 'message'),
    [
        (None, [], 'no vis_data/scalars.json under'),
        ('', [], 'no training loss in it'),
        (VALIDATION, [], 'no training loss in it'),
        (TRAINING + '\nnot JSON', [], "line 2: expected a JSON object with a 'step'"),
        (TRAINING, ['--metrics', 'mIoU'], 'mIoU was not logged; the log has: none'),
    ],
)
def test_bad_logs_are_reported(content, arguments, message, tmp_path):
    if content is not None:
        (tmp_path / 'run/vis_data').mkdir(parents=True)
        (tmp_path / 'run/vis_data/scalars.json').write_text(content)
    done = call(CURVES, tmp_path, *arguments)
    assert done.returncode == 2
    assert message in done.stderr


def test_curves_of_a_run_whose_validations_are_counted_in_epochs(tmp_path):
    log = tmp_path / 'scalars.json'
    log.write_text(f'{TRAINING}\n{VALIDATION}\n')
    plot_curves = load(CURVES)
    losses, metrics = plot_curves.read_scalars(log)
    assert losses == {'loss': [(20, 2.0)], 'loss_mask': [(20, 1.0)]}
    assert metrics == {'coco/segm_mAP': [(20, 0.5)], 'coco/segm_mAP_50': [(20, 0.6)]}
    assert plot_curves.choose_metrics(metrics, None) == ['coco/segm_mAP']
    assert call(CURVES, log).returncode == 0
    with Image.open(tmp_path / 'curves.png') as image_read:
        assert min(image_read.size) > 100
