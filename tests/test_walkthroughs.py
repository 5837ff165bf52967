"""The pages that lead through a whole task: each command and Python block runs, in order, on a few small images."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip('mmdet', reason='the pages train detectors')
from helpers import SMALL_ARCH
from helpers.tools import ROOT, run_command, run_script, write_coco
from mmengine.config import Config
from mmengine.logging import MessageHub, MMLogger
from mmengine.visualization import Visualizer

STEP = re.compile(r'^```python\n(?P<python>[^`]*)^```|^    (?P<command>(?:python|mmsparx|cp) .+)$', re.MULTILINE)
SHAPES = ['--train', 10, '--val', 2, '--size', 64]
CHANNELS = list(SMALL_ARCH['channels'])
DEMO = 'configs/detection/mask_rcnn_sparx_shapes.py'
EXAMPLE = 'configs/detection/examples/mask_rcnn_sparx_t_own_classes.py'
# Options that make the configs small enough for a test.
DEMO_OPTIONS = [
    'train_cfg.max_iters=2', 'train_cfg.val_interval=2', 'default_hooks.checkpoint.interval=2',
    'default_hooks.logger.interval=1', 'train_dataloader.batch_size=2', 'model.test_cfg.rcnn.score_thr=0.001',
]  # fmt: skip
SMALL = f"""
model = dict(
    backbone=dict(arch=dict({SMALL_ARCH}, _delete_=True)),
    neck=dict(in_channels={CHANNELS}, out_channels=16),
    rpn_head=dict(in_channels=16, feat_channels=16),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=16),
        bbox_head=dict(in_channels=16, fc_out_channels=32),
        mask_roi_extractor=dict(out_channels=16),
        mask_head=dict(in_channels=16, conv_out_channels=16),
    ),
    train_cfg=dict(rpn_proposal=dict(nms_pre=100, max_per_img=30), rcnn=dict(sampler=dict(num=16))),
    test_cfg=dict(rpn=dict(nms_pre=100, max_per_img=30), rcnn=dict(score_thr=0.001)),
)
"""
LOADERS = [
    f'{loader}_dataloader.{option}'
    for loader in ('train', 'val', 'test')
    for option in ('num_workers=0', 'persistent_workers=False')
]
SCALES = [
    f'{loader}_dataloader.dataset.pipeline.{i}.scale=(64,64)' for loader, i in (('train', 2), ('val', 1), ('test', 1))
]


def steps(name: str, **replaced: str) -> list[tuple[str, str]]:
    """('python' or 'command', text) of a page, with some words replaced."""
    text = (ROOT / 'docs' / f'{name}.md').read_text()
    for old, new in replaced.items():
        assert old in text
        text = text.replace(old, new)
    return [(match.lastgroup, match[match.lastgroup]) for match in STEP.finditer(text)]


def run(command: str, *more: object) -> None:
    """Run a command of a page in this process, with more arguments."""
    program, *arguments = shlex.split(command, comments=True)
    for kept in (MessageHub, MMLogger, *[Visualizer, *Visualizer.__subclasses__()]):
        kept._instance_dict.clear()  # mmengine keeps these by name, and a run would write to the one before
    if program == 'python':
        run_script(Path(arguments[0]), *arguments[1:], *more)
    elif program == 'mmsparx':
        assert not run_command(*arguments, *more), command
    else:
        shutil.copy(*arguments)


def run_python(code: str) -> None:
    Path('block.py').write_text(code)
    run_script(Path('block.py'))


@pytest.fixture
def clone(tmp_path, monkeypatch) -> Path:
    """A folder with the parts of a clone that the pages use."""
    for name in ('demo', 'tools', 'docs'):
        (tmp_path / name).symlink_to(ROOT / name)
    shutil.copytree(ROOT / 'configs', tmp_path / 'configs', ignore=shutil.ignore_patterns('__pycache__'))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_first_detector(clone, capfd):
    assert f'iter_{Config.fromfile(ROOT / DEMO).train_cfg.max_iters}.pth' == 'iter_450.pth'
    for kind, text in steps('first_detector', iter_450='iter_2'):
        if kind == 'python':
            run_python(text)
            assert re.search(r'^\[.*\] \[.*\]$', capfd.readouterr().out, re.MULTILINE)  # labels and scores
        elif 'make_shapes' in text:
            run(text, *SHAPES)
        elif 'mmsparx train' in text or 'mmsparx test' in text:
            own = [] if '--cfg-options' in text else ['--cfg-options']
            run(text, *own, *DEMO_OPTIONS)
        elif 'doctor' not in text:  # the doctor has tests of its own
            run(text)
    assert Path('work_dirs/demo/curve.png').is_file()
    assert len(list(Path('pairs').iterdir())) == 2
    assert len(list(Path('found').rglob('*.json'))) == 2
    assert Config.fromfile('work_dirs/demo/slower/mask_rcnn_sparx_shapes.py').optim_wrapper.optimizer.lr == 1e-3


@pytest.fixture
def own(clone) -> Path:
    """Follow the page on your own data up to the edited config, make it small, and return it."""
    draw, drop, check, copy, settings, *_ = steps('own_data')
    run(draw[1], *SHAPES)
    run_python(drop[1])
    run(check[1])
    run(copy[1])
    path = Path('configs/detection/examples/own.py')
    text = path.read_text()
    start, end = text.index('data_root ='), text.index('num_classes = len')
    path.write_text(text[:start] + settings[1] + text[end:])
    cfg = Config.fromfile(path)
    assert cfg.model.roi_head.bbox_head.num_classes == cfg.model.roi_head.mask_head.num_classes == 3
    assert cfg.param_scheduler[1].milestones == [8, 11]
    assert cfg.auto_scale_lr == dict(enable=True, base_batch_size=16)
    assert cfg.optim_wrapper.optimizer.lr == 1e-4
    assert cfg.model.backbone.frozen_stages == 1
    # The test has two epochs in place of twelve.
    path.write_text(path.read_text().replace('max_epochs = 12', 'max_epochs = 2'))
    small = path.with_name('small.py')
    small.write_text(f"_base_ = './{path.name}'\n{SMALL}")
    return small


def test_own_data(own):
    *_, train, test = steps('own_data', **{'examples/own.py': 'examples/small.py', 'epoch_12': 'epoch_2'})
    assert train[1].startswith('mmsparx train')
    run(train[1], '--no-pretrained', '--cfg-options', *LOADERS, *SCALES, 'default_hooks.logger.interval=1')
    (log,) = Path('work_dirs/own').glob('*/*.log')
    text = log.read_text()
    for name in ('circle', 'triangle', 'square'):
        assert f'coco/{name}_precision' in text
    assert 'coco/star_precision' not in text
    assert 'the current batch size is 2. Scaling the original LR by 0.125.' in text  # to 1.25e-5
    run(test[1], '--cfg-options', *LOADERS, *SCALES)
    assert len(list(Path('pairs').rglob('*.jpg'))) == 2


def test_own_data_without_a_clone(own, tmp_path, monkeypatch):
    """The base config of the page beside the example gives the settings of the clone."""
    in_clone = own.with_name('own.py').absolute()
    folder = tmp_path / 'elsewhere'
    folder.mkdir()
    monkeypatch.chdir(folder)
    (export,) = (text for _, text in steps('own_data') if 'export-config' in text)
    run(export)
    (copy,) = (text for _, text in steps('own_data') if text.startswith('cp "'))
    subprocess.run(['sh', '-c', copy.replace('python', shlex.quote(sys.executable), 1)], check=True)
    assert Path('own.py').read_text() == (ROOT / EXAMPLE).read_text()
    base = "_base_ = 'mask_rcnn_sparx_t_1x.py'"
    assert f'`{base}`' in (ROOT / 'docs/own_data.md').read_text()
    text = in_clone.read_text()
    assert text.count("_base_ = '../mask_rcnn_sparx_t_1x.py'") == 1
    Path('own.py').write_text(text.replace("_base_ = '../mask_rcnn_sparx_t_1x.py'", base))
    here, there = Config.fromfile('own.py'), Config.fromfile(in_clone)
    for key in ('model', 'train_dataloader', 'val_evaluator', 'optim_wrapper', 'param_scheduler', 'custom_hooks'):
        assert here[key] == there[key], key


# Mistaken changes of a config, and the row of the page with the message.
MISTAKES = {
    'class is spelled differently': ("'circle', ", "'Circle', "),
    'another order': ("'circle', 'triangle'", "'triangle', 'circle'"),
    'only one of the heads': ('mask_head=dict(num_classes=num_classes)', 'mask_head=dict(num_classes=4)'),
    'path of the data': ("'data/own/'", "'data/mine/'"),
}


@pytest.mark.parametrize('row', MISTAKES)
def test_mistakes_in_the_config(row, own):
    path, (before, after) = own.with_name('own.py'), MISTAKES[row]
    text = path.read_text()
    assert text.count(before) == 1
    path.write_text(text.replace(before, after))
    with pytest.raises((ValueError, FileNotFoundError), match=re.escape(message_of(row))):
        run(f'mmsparx train {own} --no-pretrained --cfg-options', *LOADERS, *SCALES)


def corners(annotation):
    x, y, width, height = annotation['bbox']
    annotation['bbox'] = [x, y, x + width, y + height]


def shares(annotation):
    annotation['bbox'] = [value / 64 for value in annotation['bbox']]


@pytest.mark.parametrize(('row', 'change'), [('boxes are `.x1', corners), ('boxes are shares', shares)])
def test_mistakes_in_annotations(row, change, tmp_path, capsys):
    file = write_coco(tmp_path, 'train', 4, seed=0)
    edit(file, change)
    run_command('check-data', file)
    assert message_of(row) in capsys.readouterr().out


def test_annotations_without_masks(own):
    for file in Path('data/own/annotations').iterdir():
        edit(file, lambda annotation: annotation.pop('segmentation'))
    with pytest.raises(ValueError, match=re.escape(message_of('have no masks'))):
        run(f'mmsparx train {own} --no-pretrained --cfg-options', *LOADERS, *SCALES)


def edit(file: Path, change) -> None:
    """Change each annotation of a file."""
    content = json.loads(file.read_text())
    for annotation in content['annotations']:
        change(annotation)
    file.write_text(json.dumps(content))


def message_of(row: str) -> str:
    """The message in a row of the page's table of mistakes."""
    table = (ROOT / 'docs/own_data.md').read_text()
    (message,) = re.findall(rf'^\| [^|]*{row}[^|]*\| `(.+)` \|$', table, re.MULTILINE)
    return message
