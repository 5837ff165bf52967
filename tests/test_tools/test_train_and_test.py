"""Training, resuming and testing through the tools, on a tiny set."""

import json
import pickle
import shlex

import numpy as np
import pytest
import torch

pytest.importorskip('mmdet', reason='the detection tools need mmdet')
from helpers.tools import CONFIG, overrides, parse, read_drawn, run_command, scalars
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import CheckpointLoader

from mmsparx.engine import training

# A test needs no training images.
NO_TRAINING_DATA = {'train_dataloader.dataset.data_root': 'nowhere'}


def test_a_checkpoint_tests_as_it_validated(train, tool, coco, tmp_path):
    work = train(iters=6)
    validated = {k: v for k, v in scalars(work)[-1].items() if k.startswith('coco/')}
    assert set(validated) >= {'coco/bbox_mAP', 'coco/segm_mAP'}
    tested, drawn = tmp_path / 'tested', tmp_path / 'drawn'
    options = overrides(coco, **{'default_hooks.visualization.score_thr': 0, **NO_TRAINING_DATA})
    arguments = ['--work-dir', tested, '--out', tmp_path / 'out.pkl', '--show-dir', drawn, '--cfg-options', *options]
    tool('test', CONFIG, work / 'iter_6.pth', *arguments)
    result = json.loads(next(tested.glob('*/*.json')).read_text())
    assert {k: result[k] for k in validated} == validated

    predictions = pickle.loads((tmp_path / 'out.pkl').read_bytes())
    assert [prediction['img_id'] for prediction in predictions] == [0, 1, 2, 3]
    coder = pytest.importorskip('pycocotools.mask')
    for instances in (prediction['pred_instances'] for prediction in predictions):
        assert len(instances['masks']) == len(instances['scores']) > 0
        assert {coder.decode(mask).shape for mask in instances['masks']} == {(64, 64)}
    # The ground truth is on the left and the predictions are on the right, below a line that says so.
    for image, titled in read_drawn(drawn, coco / 'train2017').values():
        header, both = titled[:-64], titled[-64:]
        assert both.shape == (64, 128, 3)
        assert all(half.max() == 255 > half.min() for half in (header[:, :64], header[:, 64:]))
        assert not np.array_equal(both[:, :64], image)
        assert not np.array_equal(both[:, 64:], image)


def test_images_are_drawn_as_the_config_says(tool, coco, tmp_path, monkeypatch):
    """No detection reaches the config's threshold; the folder is relative to the place where the tool runs."""
    init_default_scope('mmdet')
    torch.save(MODELS.build(Config.fromfile(CONFIG).model).state_dict(), tmp_path / 'weights.pth')
    options = overrides(coco, **{'default_hooks.visualization.score_thr': 2, **NO_TRAINING_DATA})
    monkeypatch.chdir(tmp_path)
    tool('test', CONFIG, 'weights.pth', '--work-dir', 'tested', '--show-dir', 'drawn', '--cfg-options', *options)
    for image, titled in read_drawn(tmp_path / 'drawn', coco / 'train2017').values():
        both = titled[-64:]
        assert not np.array_equal(both[:, :64], image)
        assert np.array_equal(both[:, 64:], image)


def test_every_backbone_parameter_gets_a_gradient(coco):
    from mmengine.runner import Runner

    args = parse('train', CONFIG, '--no-pretrained', '--work-dir', str(coco), '--cfg-options', *overrides(coco))
    cfg = training.load_config(args)
    training.apply_training_options(cfg, args)
    runner = Runner.from_cfg(cfg)
    model = runner.model.train()
    batch = model.data_preprocessor(next(iter(runner.build_dataloader(cfg.train_dataloader))), training=True)
    loss, _ = model.parse_losses(model(**batch, mode='loss'))
    loss.backward()
    for name, parameter in model.backbone.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


class TestNoPublishedWeights:
    @pytest.fixture
    def log(self, monkeypatch):
        """`log(config, *options)`: messages of the training tool on initial weights, and the backbone's config."""

        def run(name, *options):
            said = []
            monkeypatch.setattr(training, 'print_log', lambda message, logger: said.append(message))
            args = parse('train', name, *options)
            cfg = training.load_config(args)
            training.apply_training_options(cfg, args)
            training.log_initial_weights(cfg)
            return said, cfg.model.backbone

        return run

    def test_a_dense_task_says_so(self, log):
        pytest.importorskip('mmseg')
        (message,), backbone = log('upernet_sparx_swin_t_160k')
        assert backbone.init_cfg is None
        assert 'random values: ImageNet weights of SparX-Swin are not published' in message
        # The suggested options work.
        options = message.partition('--cfg-options ')[2].replace('FILE', 'mine.pth').split()
        said, backbone = log('upernet_sparx_swin_t_160k', '--cfg-options', *options)
        assert said == []
        assert backbone.init_cfg == {'type': 'Pretrained', 'checkpoint': 'mine.pth'}
        assert log('upernet_sparx_swin_t_160k', '--cfg-options', 'load_from=mine.pth')[0] == []

    @pytest.mark.parametrize(
        ('library', 'name'), [('mmpretrain', 'sparx_swin_t_in1k'), ('mmdet', 'mask_rcnn_sparx_t_1x')]
    )
    def test_no_message_otherwise(self, library, name, log):
        """A classifier starts from random values anyway; others have their weights."""
        pytest.importorskip(library)
        assert log(name)[0] == []

    def test_once_in_a_run(self, tmp_path, monkeypatch):
        pytest.importorskip('mmseg')
        events = []

        class Runner:
            def train(self):
                events.append('train')

        monkeypatch.setattr(training, 'check_data', lambda *_: None)
        monkeypatch.setattr(training, 'build_runner', lambda cfg: events.append('build') or Runner())
        monkeypatch.setattr(training, 'print_log', lambda message, logger: events.append('log'))
        run_command('train', 'upernet_sparx_swin_t_160k', '--work-dir', tmp_path)
        assert events == ['build', 'log', 'train']


def test_amp_says_that_it_needs_an_accelerator(train):
    if torch.cuda.is_available():
        pytest.skip('there is an accelerator here')
    with pytest.raises(RuntimeError, match=r'--amp: .* accelerators only'):
        train('--amp')


def test_auto_scale_lr(coco, tmp_path):
    args = parse('train', CONFIG, '--auto-scale-lr')
    cfg = training.load_config(args)
    training.apply_training_options(cfg, args)
    assert cfg.auto_scale_lr.enable
    assert cfg.auto_scale_lr.base_batch_size == 16
    cfg.pop('auto_scale_lr')
    with pytest.raises(ValueError, match='base_batch_size'):
        training.apply_training_options(cfg, args)


def test_a_loader_that_a_config_brings_is_secured(tool, coco, tmp_path, monkeypatch):
    """The loader is of a new scheme, which is registered after mmsparx is imported."""
    (tmp_path / 'late_loader.py').write_text("""
import torch
from mmengine.runner import CheckpointLoader

@CheckpointLoader.register_scheme(prefixes='late://', force=True)
def load(filename, map_location=None):
    return torch.load(filename.removeprefix('late:/'), map_location=map_location, weights_only=False)
""")
    config = tmp_path / 'config.py'
    imports = "custom_imports = dict(imports=['mmsparx.models', 'late_loader'], allow_failed_imports=False)"
    config.write_text(f'_base_ = {CONFIG!r}\n{imports}\n')
    path = tmp_path / 'of_another.pth'
    torch.save({'state_dict': {}, 'meta': {'cfg': 'print("a config runs")', 'epoch': 3}}, path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(CheckpointLoader, '_schemes', dict(CheckpointLoader._schemes))
    with pytest.raises(RuntimeError, match='MISSING in the file'):
        tool('test', config, f'late:/{path}', '--work-dir', tmp_path / 'work', '--cfg-options', *overrides(coco))
    meta = CheckpointLoader.load_checkpoint(f'late:/{path}')['meta']
    assert meta['epoch'] == 3
    with pytest.raises(ValueError, match='this checkpoint brings a config of its own, which mmsparx does not run'):
        Config.fromstring(meta['cfg'], '.py')


def test_pretrained_weights_are_not_skipped_silently(tool, coco, tmp_path):
    """Without --no-pretrained, unavailable weights end the run; the message says how to fix it."""
    options = overrides(
        coco, **{'model.backbone.init_cfg.type': 'Pretrained', 'model.backbone.init_cfg.checkpoint': 'no.pth'}
    )
    with pytest.raises(RuntimeError, match=r'no\.pth are not available.*--no-pretrained'):
        tool('train', CONFIG, '--work-dir', tmp_path, '--cfg-options', *options)


class TestMayDiffer:
    """`--may-differ`, for the weights of `load_from`."""

    @pytest.fixture
    def apply(self):
        """The config with options of tools/train.py."""

        def apply(*options):
            args = parse('train', CONFIG, *options)
            cfg = training.load_config(args)
            training.apply_training_options(cfg, args)
            return cfg

        return apply

    def test_it_is_given_to_the_hook(self, apply):
        loaded = ('--cfg-options', 'load_from=x.pth')
        cfg = apply('--may-differ', 'rpn_head.*', 'neck.*', *loaded)
        given = dict(type='mmsparx.StrictLoadHook', may_differ=['rpn_head.*', 'neck.*'])
        assert cfg.custom_hooks == [*apply(*loaded).custom_hooks, given]

    def test_without_weights_to_load(self, apply):
        with pytest.raises(ValueError, match=r'names none: --cfg-options load_from=FILE'):
            apply('--may-differ', 'neck.*')
        for resume in (['--resume'], ['--resume', 'iter_1.pth'], ['--cfg-options', 'resume=True', 'load_from=x.pth']):
            with pytest.raises(ValueError, match='on a resume everything has to match'):
                apply('--may-differ', 'neck.*', *resume)

    def test_a_run(self, train, tmp_path):
        """The error has the option, and the option starts the run."""
        cfg = Config.fromfile(CONFIG)
        init_default_scope('mmdet')
        state = MODELS.build(cfg.model).state_dict()
        state = {name: x for name, x in state.items() if not name.startswith('roi_head.mask_head.')}
        torch.save({'state_dict': state}, tmp_path / 'boxes.pth')
        load = {'load_from': tmp_path / 'boxes.pth'}
        option = "--may-differ 'roi_head.mask_head.*'"
        with pytest.raises(RuntimeError, match=r'lacks roi_head\.mask_head \(\d+ tensors\)') as error:
            train(**load)
        assert f'\n  or with mmsparx train: {option}\n' in str(error.value)
        work = train(*shlex.split(option), **load)
        assert (work / 'iter_2.pth').is_file()
