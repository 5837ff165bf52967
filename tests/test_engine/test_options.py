"""`--cfg-options`: values, known keys, and the arguments that the parts of a run take."""

import argparse

import pytest
from mmengine.config import Config

from mmsparx.cli.arguments import add_option_arguments
from mmsparx.engine.options import apply_options, check_arguments, parse_value
from mmsparx.zoo import list_configs


@pytest.mark.parametrize(
    ('text', 'value'),
    [
        ('3', 3),
        ('5e-5', 5e-5),
        ('True', True),
        ('None', None),
        ('name', 'name'),
        ('', ''),
        ('/data/my images (2)/a b', '/data/my images (2)/a b'),
        ("'a b'", 'a b'),
        ('[1, 2]', [1, 2]),
        ('[(1, 2), ( 3,4 )]', [(1, 2), (3, 4)]),
        ('1, 2', [1, 2]),
        ('[my cat, a dog]', ['my cat', 'a dog']),
        ('(a b,)', ('a b',)),
        ('[/my data/a (1),/b]', ['/my data/a (1)', '/b']),
        ('a=b', 'a=b'),
        ("[{'type': 'EMAHook', 'momentum': 1e-4}]", [{'type': 'EMAHook', 'momentum': 1e-4}]),
        ('/data/{a}', '/data/{a}'),
    ],
)
def test_values(text, value):
    assert parse_value(text) == value


def parse(*arguments):
    parser = argparse.ArgumentParser(allow_abbrev=False)
    add_option_arguments(parser)
    return parser.parse_args(['--cfg-options', *arguments])


def test_options_of_a_command_line():
    args = parse('a.b=1', 'c=a path', '--cfg-options', 'a.b=2', 'd=e=f')
    assert args.cfg_options == {'a.b': 2, 'c': 'a path', 'd': 'e=f'}
    assert not args.allow_new_keys


@pytest.mark.parametrize(
    ('argument', 'message'),
    [
        ('KEY', "expected KEY=VALUE, got 'KEY'. Put quotes around values with blanks"),
        ('=3', "expected KEY=VALUE, got '=3'"),
        ('a..b=3', "expected KEY=VALUE, got 'a..b=3'"),
        ('a=[1,(2]', "'a=[1,(2]': Imbalanced brackets"),
        ('a=[{b,c}]', "'a=[{b,c}]': expected a literal of Python, as [{'type': 'EMAHook'}], got [{b,c}]"),
        ("a={'b'", 'expected a literal of Python'),
    ],
)
def test_arguments_that_are_no_options(argument, message, capsys):
    with pytest.raises(SystemExit):
        parse('a.b=1', argument)
    assert message in capsys.readouterr().err


@pytest.fixture(scope='module')
def run():
    """A config with the parts of a run, for mmengine only."""
    return dict(
        model=dict(
            type='mmsparx.SparXMamba',
            aggregator=dict(type='DMCA'),
            token_mixer=dict(type='SS2D'),
            norm_cfg=dict(type='BN'),
            test_cfg=dict(score_thr=0.1),
        ),
        max_iters=3,
        train_cfg=dict(type='IterBasedTrainLoop', max_iters=3),
        val_cfg=dict(),
        optim_wrapper=dict(
            type='AmpOptimWrapper',
            optimizer=dict(type='AdamW', lr=1),
            clip_grad=None,
            paramwise_cfg=dict(custom_keys={}),
        ),
        param_scheduler=[dict(type='LinearLR', start_factor=0.1, end=3)],
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=1), logger=dict(type='LoggerHook')),
        custom_hooks=[dict(type='EMAHook')],
        train_dataloader=dict(batch_size=2, dataset=dict(type='ToySet', pipeline=[dict(type='A'), dict(type='B')])),
        val_evaluator=dict(type='DumpResults', out_file_path='a.pkl'),
        visualizer=None,
    )


@pytest.mark.parametrize(
    ('key', 'message'),
    [
        ('optim_wraper.optimizer.lr', r"has no 'optim_wraper'; did you mean optim_wrapper\.optimizer\.lr\?"),
        ('train_dataloder.batch_size', r'did you mean train_dataloader\.batch_size\?'),
        ('lr', r"the config has no 'lr'; did you mean optim_wrapper\.optimizer\.lr\?"),
        ('resum', r'did you mean resume\?'),
        ('quark', r"the config has no 'quark'; known there: .*custom_hooks"),
        ('max_iters', r'max_iters is a variable of the config file, .* as train_cfg\.max_iters'),
        (
            'optim_wrapper.optimizer.weigth_decay',
            r'optimizer \(AdamW\) has no .*mean optim_wrapper\.optimizer\.weight_dec',
        ),
        ('optim_wrapper.loss_scal', r'\(AmpOptimWrapper\) has no .* mean optim_wrapper\.loss_scale\?'),
        ('optim_wrapper.acumulative_counts', r'mean optim_wrapper\.accumulative_counts\?'),  # a key of its base
        ('optim_wrapper.clip_grad.max_nrom', r'mean optim_wrapper\.clip_grad\.max_norm\?'),
        ('optim_wrapper.paramwise_cfg.norm_decay_mul', r'mean optim_wrapper\.paramwise_cfg\.norm_decay_mult\?'),
        ('train_cfg.max_iter', r'mean train_cfg\.max_iters\?'),
        ('val_cfg.fp61', r"val_cfg has no 'fp61'; did you mean val_cfg\.fp16\?"),
        ('param_scheduler.0.start_facter', r'LinearLR.* mean param_scheduler\.0\.start_factor\?'),
        ('default_hooks.loger.interval', r'mean default_hooks\.logger\.interval\?'),
        ('default_hooks.logger.intervall', r'mean default_hooks\.logger\.interval\?'),
        ('val_evaluator.out_file', r'mean val_evaluator\.out_file_path\?'),
        ('train_dataloader.num_worker', r'mean train_dataloader\.num_workers\?'),
        ('model.drop_path', r'SparXMamba.* mean model\.drop_path_rate\?'),
        ('model.aggregator.learnable_scal', r'DMCA.* mean model\.aggregator\.learnable_scale\?'),
        ('model.test_cfg.score_th', r"model\.test_cfg has no 'score_th'; did you mean model\.test_cfg\.score_thr\?"),
        ('train_dataloader.dataset.pipeline.2.scale', 'expected a position from 0 to 1 in it, got .2.'),
        ('train_dataloader.dataset.pipeline.A.scale', 'pipeline is a list; expected a position'),
        ('model.type.name', r"model\.type is 'mmsparx\.SparXMamba', and has no settings"),
    ],
)
def test_typos_are_named_with_the_nearest_key(run, key, message):
    cfg = Config(run)
    with pytest.raises(ValueError, match=rf'--cfg-options: {key}: .*{message}'):
        apply_options(cfg, {key: 7})


@pytest.mark.parametrize(
    'key',
    [
        'resume',
        'load_from',
        'randomness.seed',
        'env_cfg.cudnn_benchmark',
        'env_cfg.dist_cfg.backend',
        'find_unused_parameters',
        'optim_wrapper.optimizer.weight_decay',
        'optim_wrapper.accumulative_counts',
        'optim_wrapper.clip_grad.max_norm',
        'optim_wrapper.paramwise_cfg.custom_keys.norm.decay_mult',
        'optim_wrapper.paramwise_cfg.norm_decay_mult',
        'train_cfg.val_begin',
        'val_cfg.fp16',
        'param_scheduler.0.convert_to_iter_based',
        'default_hooks.checkpoint.save_best',
        'default_hooks.timer.priority',
        'custom_hooks.0.momentum',
        'custom_hooks.0.priority',
        'train_dataloader.num_workers',
        'train_dataloader.prefetch_factor',
        'train_dataloader.sampler.type',
        'train_dataloader.dataset.pipeline.1.anything',  # an unknown type
        'model.with_cp',
        'model.drop_path_rate',
        'model.init_cfg.checkpoint',
        'model.aggregator.learnable_scale',
        'model.token_mixer.backend',
        'model.norm_cfg.requires_grad',
        'model.norm_cfg.momentum',
        'visualizer.type',
    ],
)
def test_new_keys_that_something_takes(run, key):
    cfg = Config(run)
    apply_options(cfg, {key: 7})
    node = cfg._cfg_dict
    for part in key.split('.'):
        node = node[int(part)] if part.isdigit() else node[part]
    assert node == 7


def test_the_class_is_the_one_that_the_options_name(run):
    cfg = Config(run)
    apply_options(cfg, {'optim_wrapper.optimizer.type': 'SGD', 'optim_wrapper.optimizer.momentum': 0.9})
    apply_options(cfg, {'default_hooks.early.type': 'EarlyStoppingHook', 'default_hooks.early.monitor': 'loss'})
    assert cfg.default_hooks.early == dict(type='EarlyStoppingHook', monitor='loss')
    with pytest.raises(
        ValueError, match=r'early \(EarlyStoppingHook\) has no .* mean default_hooks\.early\.patience\?'
    ):
        apply_options(cfg, {'default_hooks.early.pacience': 3})


def test_all_typos_are_named_at_once(run):
    with pytest.raises(ValueError) as error:
        apply_options(Config(run), {'resum': 1, 'train_cfg.max_iters': 2, 'model.with_pc': 3})
    assert 'resume?' in str(error.value)
    assert 'model.with_cp?' in str(error.value)
    assert 'train_cfg.max_iters' not in str(error.value)
    assert '--allow-new-keys' in str(error.value)


def test_new_keys_can_be_allowed(run):
    cfg = Config(run)
    apply_options(cfg, {'mine.of.all': 3, 'max_iters': 9, 'model.test_cfg.mine': 4}, allow_new_keys=True)
    assert (cfg.mine.of.all, cfg.max_iters, cfg.model.test_cfg.mine) == (3, 9, 4)


@pytest.mark.parametrize(
    ('key', 'message'),
    [
        (
            'default_hooks.logger.intervall',
            r"default_hooks\.logger \(LoggerHook\) takes no 'intervall'; .*'interval'\?",
        ),
        ('custom_hooks.0.begin_itre', ''),
        ('train_cfg.max_iter', r"train_cfg \(IterBasedTrainLoop\) takes no 'max_iter'; did you mean 'max_iters'\?"),
        ('val_cfg.fp61', r"val_cfg takes no 'fp61'; did you mean 'fp16'\?"),
        ('optim_wrapper.optimizer.beta', r"optim_wrapper\.optimizer \(AdamW\) takes no 'beta'; did you mean 'betas'\?"),
        (
            'optim_wrapper.clip_grad.max_nrom',
            r"optim_wrapper\.clip_grad takes no 'max_nrom'; did you mean 'max_norm'\?",
        ),
        ('param_scheduler.0.start_facter', r"\(LinearLR\) takes no 'start_facter'; did you mean 'start_factor'\?"),
        (
            'val_evaluator.out_file',
            r"val_evaluator \(DumpResults\) takes no 'out_file'; did you mean 'out_file_path'\?",
        ),
    ],
)
def test_arguments_of_a_config_are_checked_like_options(run, key, message):
    """Classes that take any arguments are not checked: an EMAHook passes them to the average that it builds."""
    cfg = Config(run)
    check_arguments(cfg)
    apply_options(cfg, {key: 7}, allow_new_keys=True)
    if message:
        with pytest.raises(TypeError, match=message):
            check_arguments(cfg)
    else:
        check_arguments(cfg)


@pytest.mark.parametrize('config', [each for each in list_configs() if '_t_' in each.name], ids=lambda each: each.name)
def test_the_shipped_configs_have_known_arguments_only(config):
    cfg = Config.fromfile(config.path, import_custom_modules=False)
    pytest.importorskip(cfg.default_scope)
    check_arguments(cfg)
