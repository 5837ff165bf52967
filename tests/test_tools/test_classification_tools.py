"""The classification recipe through the tools, on a tiny set; scikit-learn's digits as a smoke test."""

import importlib.util
import json
import pickle
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip('mmpretrain', reason='the classification tools need mmpretrain')
from helpers import randomise
from helpers.classification import CLASSIFICATION, forget_runs, run_tool, write_config, write_folders
from helpers.tools import load_tool, read_drawn, run_script, scalars
from helpers.weights import assert_loaded, build_classifier
from mmengine.config import Config
from mmengine.hooks import EMAHook
from mmengine.runner import Runner

from mmsparx.weights import read_checkpoint
from mmsparx.weights.names import convert_names


@pytest.fixture
def data(tmp_path):
    write_folders(tmp_path / 'data')
    return tmp_path / 'data'


@pytest.fixture
def tool():
    """`tool('train', config, ...)`"""
    return run_tool


def build_runner(config, work_dir, **options):
    cfg = Config.fromfile(config)
    cfg.merge_from_dict({'work_dir': str(work_dir), **options})
    return Runner.from_cfg(cfg)


def checkpoint(path):
    return read_checkpoint(path)


def test_the_recipe_trains_resumes_and_tests(tool, data, tmp_path):
    config = write_config(tmp_path, data)
    whole, resumed, tested = (tmp_path / name for name in ('whole', 'resumed', 'tested'))
    tool('train', config, '--work-dir', whole)
    logged = scalars(whole)
    assert len([line for line in logged if 'loss' in line]) == 4  # two epochs of two batches
    validated = {key: value for key, value in logged[-1].items() if key.startswith('accuracy/')}
    # Scores are logged for the averaged model and for the other.
    assert validated.keys() == {f'accuracy/top{k}{model}' for k in (1, 2) for model in ('', '_origin')}

    # A run resumed after an epoch ends with the same weights, averages and optimizer.
    resumed.mkdir()
    shutil.copy(whole / 'epoch_1.pth', resumed)
    tool('train', config, '--work-dir', resumed, '--resume', resumed / 'epoch_1.pth')
    first, second = (checkpoint(work / 'epoch_2.pth') for work in (whole, resumed))
    for key in ('state_dict', 'ema_state_dict'):
        assert first[key].keys() == second[key].keys()
        assert all(torch.equal(x, second[key][name]) for name, x in first[key].items()), key
    assert not torch.equal(first['state_dict']['head.fc.weight'], first['ema_state_dict']['module.head.fc.weight'])
    moments, others = (c['optimizer']['state'] for c in (first, second))
    assert all(torch.equal(moments[i]['exp_avg'], others[i]['exp_avg']) for i in moments)

    tool('test', config, whole / 'epoch_2.pth', '--work-dir', tested)
    result = json.loads(next(tested.glob('*/*.json')).read_text())
    for k in (1, 2):
        assert result[f'accuracy/top{k}'] == validated[f'accuracy/top{k}']


def test_every_backbone_parameter_gets_a_gradient(data, tmp_path):
    runner = build_runner(write_config(tmp_path, data), tmp_path)
    model = runner.model.train()
    loader = runner.build_dataloader(runner.cfg.train_dataloader)
    batch = model.data_preprocessor(next(iter(loader)), training=True)
    assert batch['inputs'].shape == (4, 3, 224, 224)
    scores = torch.stack([sample.gt_score for sample in batch['data_samples']])
    assert scores.shape == (4, 3)  # mixed labels
    loss, _ = model.parse_losses(model(**batch, mode='loss'))
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_the_runner_tests_a_published_file(data, tmp_path):
    state = randomise(build_classifier(num_classes=3)).state_dict()
    published = {theirs: state[name] for name, theirs in convert_names(state, 'published').items()}
    path = tmp_path / 'published.pth'
    torch.save(published, path)
    runner = build_runner(write_config(tmp_path, data), tmp_path, load_from=str(path))
    assert 0 <= runner.test()['accuracy/top1'] <= 100
    assert_loaded(runner.model.backbone, published)
    assert torch.equal(runner.model.head.fc.weight, published['classifier.3.weight'])
    (averaged,) = (hook.ema_model.module for hook in runner.hooks if isinstance(hook, EMAHook))
    assert torch.equal(averaged.head.fc.weight, published['classifier.3.weight'])


def test_predictions_are_drawn_and_written(tool, data, tmp_path):
    """Three folders have images of the same name; there are no training data."""
    config = write_config(tmp_path, data)
    path = tmp_path / 'weights.pth'
    torch.save(build_runner(config, tmp_path).model.state_dict(), path)
    arguments = ['--work-dir', tmp_path / 'tested', '--show-dir', tmp_path / 'drawn', '--out', tmp_path / 'out.pkl']
    shutil.rmtree(data / 'train')
    tool('test', config, path, *arguments)

    drawn = read_drawn(tmp_path / 'drawn', data / 'val')
    assert drawn.keys() == {'blue/0.png', 'green/0.png', 'red/0.png'}
    for image, written in drawn.values():
        assert written.shape == (240, 320, 3)  # there is room for the text at the top
        np.testing.assert_allclose(written[160:].mean((0, 1)), image.mean((0, 1)), atol=4)
        bright = (written > 230).all(-1)
        assert bright[:80].any()
        assert not bright[160:].any()
    predictions = pickle.loads((tmp_path / 'out.pkl').read_bytes())
    assert [prediction['gt_label'].item() for prediction in predictions] == [0, 1, 2]
    right = [prediction['pred_label'].item() == prediction['gt_label'].item() for prediction in predictions]
    result = json.loads(next((tmp_path / 'tested').glob('*/*.json')).read_text())
    assert result['accuracy/top1'] == pytest.approx(100 * sum(right) / 3, abs=0.01)


def test_a_checkpoint_of_other_classes_is_refused(tool, data, tmp_path):
    config = write_config(tmp_path, data)
    path = tmp_path / 'three.pth'
    torch.save(build_runner(config, tmp_path).model.state_dict(), path)
    with pytest.raises(RuntimeError, match=r'head is of other classes: 3 in the file, 7 in the model'):
        tool('test', config, path, '--work-dir', tmp_path, '--cfg-options', 'model.head.num_classes=7')


def test_a_missing_folder_is_named_before_anything_is_built(tool, data, tmp_path):
    config = write_config(tmp_path, data)
    shutil.rmtree(data / 'val')
    with pytest.raises(FileNotFoundError, match=r'val_dataloader\.dataset: .*data/val does not exist\. Link .*"ln -s'):
        tool('train', config, '--work-dir', tmp_path / 'work')


def test_a_missing_class_is_noticed(tool, data, tmp_path):
    config = write_config(tmp_path, data)
    shutil.rmtree(data / 'train/red')
    with pytest.raises(ValueError, match=r'train_dataloader\.dataset: 3 classes, and 2 folders'):
        tool('train', config, '--work-dir', tmp_path / 'work')


@pytest.fixture
def converter(monkeypatch):
    """Runs tools/dataset_converters/digits.py."""
    script = load_tool('dataset_converters/digits')

    def run(*arguments):
        monkeypatch.setattr(sys, 'argv', ['digits.py', *map(str, arguments)])
        script.main()

    return run


def test_digits(tool, converter, tmp_path, capsys):
    pytest.importorskip('sklearn', reason='the digits are those of scikit-learn')
    digits = tmp_path / 'digits'
    converter(digits)
    counts = {split: len(list((digits / split).glob('*/*.png'))) for split in ('train', 'val')}
    assert counts == {'train': 1437, 'val': 360}
    first = digits / 'val/0/0000.png'
    first.write_text('an image of the user')
    with pytest.raises(SystemExit):
        converter(digits)
    assert first.read_text() == 'an image of the user'
    assert f'{digits} is not empty; name another folder' in capsys.readouterr().err
    converter(digits, '--force')
    assert first.read_bytes().startswith(b'\x89PNG')
    iters = 45
    options = {
        'model.backbone.arch.channels': '(8,16,24,32)',
        'model.head.in_channels': 32,
        'optim_wrapper.optimizer.lr': 6e-3,
        'param_scheduler.0.end': 5,
        'param_scheduler.1.T_max': iters,
        'param_scheduler.1.end': iters,
        'train_cfg.max_iters': iters,
        'train_cfg.val_interval': iters,
        'train_dataloader.batch_size': 32,
        'train_dataloader.dataset.data_root': digits,
        'val_dataloader.dataset.data_root': digits,
        'log_level': 'ERROR',
    }
    options = [f'{key}={value}' for key, value in options.items()]
    config = CLASSIFICATION / 'sparx_mamba_mini_digits.py'
    tool('train', config, '--work-dir', tmp_path / 'work', '--cfg-options', *options)
    assert scalars(tmp_path / 'work')[-1]['accuracy/top1'] > 50


@pytest.mark.parametrize('name', ['sparx_mamba_mini_overfit', 'sparx_mamba_mini_digits'])
def test_small_configs_train_by_mmpretrain_itself(name, monkeypatch, tmp_path):
    """mmpretrain's train.py keeps data workers alive unless a config says otherwise."""
    monkeypatch.chdir(tmp_path)
    write_folders(tmp_path / 'data')
    config = tmp_path / 'small.py'
    config.write_text(f"""
_base_ = {str(CLASSIFICATION / f'{name}.py')!r}
model = dict(head=dict(num_classes=3))
data_preprocessor = dict(num_classes=3)
train_dataloader = dict(dataset=dict(data_root='data', data_prefix=dict(img_path='train')))
val_dataloader = dict(dataset=dict(data_root='data', data_prefix=dict(img_path='train')))
train_cfg = dict(max_iters=2, val_interval=2)
log_level = 'ERROR'
""")
    mmpretrain = Path(importlib.util.find_spec('mmpretrain').origin).parent
    forget_runs()
    run_script(mmpretrain / '.mim/tools/train.py', config, '--work-dir', tmp_path / 'work')
    assert 'accuracy/top1' in scalars(tmp_path / 'work')[-1]
