"""Training, resuming and testing through the tools, on a tiny set."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

pytest.importorskip('mmdet', reason='the detection tools need mmdet')
from tool_helpers import CONFIG, ROOT, load_tool, overrides, scalars


def test_a_checkpoint_tests_as_it_validated(train, tool, coco, tmp_path):
    work = train(iters=6)
    validated = {k: v for k, v in scalars(work)[-1].items() if k.startswith('coco/')}
    assert set(validated) >= {'coco/bbox_mAP', 'coco/segm_mAP'}
    tested = tmp_path / 'tested'
    shown = tmp_path / 'shown'
    arguments = ['--work-dir', tested, '--out', tmp_path / 'out.pkl', '--show-dir', shown]
    tool('test', CONFIG, work / 'iter_6.pth', *arguments, '--cfg-options', *overrides(coco))
    result = json.loads(next(tested.glob('*/*.json')).read_text())
    assert {k: result[k] for k in validated} == validated
    assert (tmp_path / 'out.pkl').stat().st_size > 0
    assert len(list(shown.iterdir())) == 4


def test_every_backbone_parameter_gets_a_gradient(coco):
    from mmengine.runner import Runner

    train = load_tool('train')
    args = _parse(train, CONFIG, '--no-pretrained', '--work-dir', str(coco), '--cfg-options', *overrides(coco))
    cfg = train.load_config(args)
    train.apply_training_options(cfg, args)
    runner = Runner.from_cfg(cfg)
    model = runner.model.train()
    batch = model.data_preprocessor(next(iter(runner.build_dataloader(cfg.train_dataloader))), training=True)
    loss, _ = model.parse_losses(model(**batch, mode='loss'))
    loss.backward()
    for name, parameter in model.backbone.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_a_killed_run_resumes_as_if_uninterrupted(tool, coco, tmp_path):
    """kill -9 in the middle; then iteration, rate, optimizer, EMA and the next losses are equal."""
    config = _config_with_augmentation_and_ema(tmp_path)
    options = ['--no-pretrained', '--cfg-options', *overrides(coco, iters=6)]
    tool('train', config, '--work-dir', tmp_path / 'whole', *options)

    killed = subprocess.Popen(
        [sys.executable, 'tools/train.py', config, '--work-dir', tmp_path / 'killed', *options],
        cwd=ROOT, env={**os.environ, 'OMP_NUM_THREADS': '1'}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    _wait_for(tmp_path / 'killed/iter_3.pth', killed)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    assert not (tmp_path / 'killed/iter_6.pth').exists()
    tool('train', config, '--work-dir', tmp_path / 'killed', '--resume', *options)

    losses = [{s['step']: s['loss'] for s in scalars(tmp_path / run) if 'loss' in s} for run in ('whole', 'killed')]
    assert losses[1]
    assert all(losses[1][step] == losses[0][step] for step in losses[1]), losses
    whole, resumed = (_load(tmp_path / run / 'iter_6.pth') for run in ('whole', 'killed'))
    assert whole['meta']['iter'] == resumed['meta']['iter'] == 6
    for part in ('state_dict', 'ema_state_dict', 'optimizer', 'param_schedulers'):
        _assert_equal(whole[part], resumed[part], part)


def test_amp_says_that_it_needs_an_accelerator(train):
    if torch.cuda.is_available():
        pytest.skip('there is an accelerator here')
    with pytest.raises(RuntimeError, match=r'--amp: .* accelerators only'):
        train('--amp')


def test_auto_scale_lr(coco, tmp_path):
    train = load_tool('train')
    args = _parse(train, CONFIG, '--auto-scale-lr')
    cfg = train.load_config(args)
    train.apply_training_options(cfg, args)
    assert cfg.auto_scale_lr.enable
    assert cfg.auto_scale_lr.base_batch_size == 16
    cfg.pop('auto_scale_lr')
    with pytest.raises(ValueError, match='base_batch_size'):
        train.apply_training_options(cfg, args)


def test_pretrained_weights_are_not_skipped_silently(tool, coco, tmp_path):
    """Without --no-pretrained, weights that cannot be had end the run; the message says what to do."""
    options = overrides(
        coco, **{'model.backbone.init_cfg.type': 'Pretrained', 'model.backbone.init_cfg.checkpoint': 'no.pth'}
    )
    with pytest.raises(RuntimeError, match=r'no\.pth cannot be had.*--no-pretrained'):
        tool('train', CONFIG, '--work-dir', tmp_path, '--cfg-options', *options)


def _config_with_augmentation_and_ema(folder):
    path = folder / 'config.py'
    path.write_text(f"""
_base_ = {CONFIG!r}
model = dict(backbone=dict(drop_path_rate=0.3))
train_dataloader = dict(dataset=dict(pipeline=[
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='Resize', scale=(64, 64)),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]))
custom_hooks = [dict(type='mmsparx.IterationSeedHook'), dict(type='EMAHook', ema_type='ExpMomentumEMA')]
""")
    return path


def _wait_for(path, process, seconds=120):
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert process.poll() is None, f'the run ended by itself before {path.name} was there'
        assert time.monotonic() < deadline, f'{path.name} did not come in {seconds} s'
        time.sleep(0.01)
    time.sleep(0.05)


def _load(path):
    return torch.load(path, map_location='cpu', weights_only=True)


def _assert_equal(a, b, where):
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            _assert_equal(a[key], b[key], f'{where}.{key}')
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), where
        for i, pair in enumerate(zip(a, b, strict=True)):
            _assert_equal(*pair, f'{where}.{i}')
    else:
        assert a == b, where


def _parse(tool, *arguments):
    argv, sys.argv = sys.argv, ['tool', *map(str, arguments)]
    try:
        return tool.parse_args()
    finally:
        sys.argv = argv
