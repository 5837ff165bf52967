"""Training, resuming and testing through the tools, on a tiny set."""

import json
import sys

import pytest
import torch

pytest.importorskip('mmdet', reason='the detection tools need mmdet')
from tool_helpers import CONFIG, load_tool, overrides, scalars


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


def _parse(tool, *arguments):
    argv, sys.argv = sys.argv, ['tool', *map(str, arguments)]
    try:
        return tool.parse_args()
    finally:
        sys.argv = argv
