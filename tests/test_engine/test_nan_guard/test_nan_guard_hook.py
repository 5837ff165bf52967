"""Values that are not finite are detected and located before they reach the weights."""

from types import SimpleNamespace

import pytest
import torch
from helpers.runners import (
    INF,
    MARK,
    NAN,
    CpuAmp,
    Net,
    Probe,
    images,
    make_runner,
    reproducer,
    same,
    state_of,
    stopped,
    weights_of,
)
from mmengine.hooks import EMAHook, Hook
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.registry import HOOKS
from mmengine.runner import FlexibleRunner

from mmsparx.engine import NaNGuardHook


class Plant(Hook):
    """Corrupts a weight before the third iteration."""

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if batch_idx == 2:
            with torch.no_grad():
                runner.model.stem.weight[0, 0] = NAN


@pytest.mark.parametrize(
    ('fault', 'value', 'hooks', 'first'),
    [
        ('operator', MARK, [], ('input of module', 'head')),
        ('gradient', MARK, [], ('gradient of output of module', 'drop')),
        ('loss', MARK, [], ('output of module', 'Net')),
        ('nothing', NAN, [], ('batch', 'inputs.1')),
        ('nothing', MARK, [Plant()], ('parameter', 'stem.weight')),
    ],
    ids=['operator', 'gradient', 'loss', 'image', 'weight'],
)
def test_the_first_value_that_is_not_finite_is_named_and_the_weights_stay(tmp_path, fault, value, hooks, first):
    probe = Probe()
    runner = make_runner(tmp_path, Net(fault), NaNGuardHook(), probe, EMAHook(), *hooks, data=images(5, value=value))
    message = stopped(runner)
    found = reproducer(tmp_path)['findings'][0]
    assert (found['kind'], found['name']) == first
    assert message.startswith('Not finite in iteration 3, epoch 1:\nrank 0: ')
    assert f"{first[0]} '{first[1]}'" in message
    assert '/images/4.png, /images/5.png' in message
    assert str(tmp_path / 'nan_guard' / 'iter_3_rank_0.json') in message
    if fault == 'loss':  # the added value has no gradient: there was a finite step
        assert all(x.isfinite().all() for x in state_of(runner))
    elif not hooks:
        assert same(state_of(runner), probe.before[2])
    assert runner.model.norm.num_batches_tracked == 3  # the replay was not counted
    assert not runner.optim_wrapper.optimizer._optimizer_step_pre_hooks


def test_the_reproducer_of_an_iteration(tmp_path):
    options = {'randomness': {'seed': 3}, 'data': images(5, value=-INF)}
    message = stopped(make_runner(tmp_path, Net(), NaNGuardHook(), **options))
    assert "batch 'inputs.1': 1 inf of 4 values (torch.float32, 4), of /images/5.png" in message
    kept = reproducer(tmp_path)
    assert (kept['iteration'], kept['epoch'], kept['seed'], kept['rank'], kept['world_size']) == (3, 1, 3, 0, 1)
    assert kept['not_finite'] == ["loss 'loss': nan", "loss 'loss_square': nan", 'a gradient']
    assert kept['losses'] == {'loss': 'nan', 'loss_square': 'nan'}
    assert kept['rates'] == {'lr': [0.01]}
    assert kept['precision'] == [{'wrapper': 'OptimWrapper', 'autocast': None, 'loss_scale': None}]
    assert kept['images'][1] == {'img_path': '/images/5.png', 'ori_shape': [2, 2]}
    assert kept['tensors']['inputs.1']['finite'] == 0.75


def test_a_healthy_run_is_the_same_without_the_hook(tmp_path):
    runs = []
    for hooks in ([], [NaNGuardHook()]):
        runner = make_runner(tmp_path, Net(), *hooks, EMAHook(), data=images(), iters=6, randomness={'seed': 3})
        runner.train()
        runs.append([*state_of(runner), *runner.model.buffers(), torch.rand(1)])
        assert not runner.optim_wrapper.optimizer._optimizer_step_pre_hooks
    assert same(*runs)


def test_a_fault_that_does_not_happen_again_is_reported(tmp_path):
    net, factors = Net(), iter([1, 1, NAN])
    net.stem.register_forward_hook(lambda module, args, output: output * next(factors, 1))
    message = stopped(make_runner(tmp_path, net, NaNGuardHook(), data=images()))
    assert 'the replay was finite' in message
    kept = reproducer(tmp_path)
    assert [finding['name'] for finding in kept['findings']] == ['norm.running_mean', 'norm.running_var']
    assert kept['not_finite'][-1] == 'a gradient'


def test_between_the_intervals_nothing_is_looked_at(tmp_path):
    assert 'iteration 4' in stopped(make_runner(tmp_path, Net('operator'), NaNGuardHook(interval=4), data=images(5)))
    make_runner(tmp_path, Net('operator'), NaNGuardHook(interval=5), data=images(5)).train()


@pytest.mark.parametrize('marked', [1, 3, 5])
def test_accumulated_gradients_are_checked_in_every_iteration(tmp_path, marked):
    probe = Probe()
    wrapper = {'optimizer': {'type': 'AdamW', 'lr': 0.01}, 'accumulative_counts': 3}
    options = {'data': images(marked), 'optim_wrapper': wrapper}
    runner = make_runner(tmp_path, Net('gradient'), NaNGuardHook(), probe, **options)
    iteration = marked // 2 + 1
    assert f'iteration {iteration},' in stopped(runner)
    assert reproducer(tmp_path, iteration)['findings'][0]['name'] == 'drop'
    assert same(state_of(runner), probe.before[0])


class TwoSteps(Net):
    """Two optimizers, one after the other, as in adversarial training."""

    def train_step(self, data, optim_wrapper):
        data = self.data_preprocessor(data, True)
        for name in ('stem', 'head'):
            with optim_wrapper[name].optim_context(self):
                losses = self._run_forward(data, mode='loss')
            loss, logs = self.parse_losses(losses)
            optim_wrapper[name].update_params(loss)
        return logs


def test_several_optimizers(tmp_path):
    net, stems = TwoSteps('gradient'), []
    wrappers = OptimWrapperDict(
        stem=OptimWrapper(torch.optim.SGD(net.stem.parameters(), 0.01, momentum=0.9)),
        head=OptimWrapper(torch.optim.AdamW(net.head.parameters(), 0.01)),
    )

    class Keep(Hook):
        def before_train_iter(self, runner, batch_idx, data_batch=None):
            stems.append(weights_of(net.stem))

    options = {'data': images(5), 'optim_wrapper': wrappers}
    assert "gradient of output of module 'drop'" in stopped(
        make_runner(tmp_path, net, NaNGuardHook(), Keep(), **options)
    )
    assert not same(stems[0], stems[1])
    assert same(weights_of(net.stem), stems[2])
    assert reproducer(tmp_path)['rates'] == {'stem.lr': [0.01], 'head.lr': [0.01]}


@pytest.mark.parametrize('fused', [False, True])
def test_an_overflow_of_the_scaler_is_its_own_affair(tmp_path, fused):
    net, probe = Net(), Probe()
    wrapper = CpuAmp(torch.optim.AdamW(net.parameters(), 0.01, fused=fused), init_scale=2.0**126)
    make_runner(tmp_path, net, NaNGuardHook(), probe, data=images(), iters=16, optim_wrapper=wrapper).train()
    assert wrapper.loss_scaler.get_scale() < 2.0**126
    count = len(weights_of(net))
    stepped = [not same(a[:count], b[:count]) for a, b in zip(probe.before, probe.after, strict=True)]
    assert not stepped[0]
    assert stepped[-1]


def test_a_loss_that_is_not_finite_is_not_the_scalers_affair(tmp_path):
    net = Net('operator')
    wrapper = CpuAmp(torch.optim.AdamW(net.parameters(), 0.01), init_scale=4.0)
    message = stopped(make_runner(tmp_path, net, NaNGuardHook(), data=images(5), optim_wrapper=wrapper))
    assert "rank 0: loss 'loss': nan; loss 'loss_square': nan\n" in message
    assert reproducer(tmp_path)['precision'] == [{'wrapper': 'CpuAmp', 'autocast': None, 'loss_scale': 2.0}]


def test_an_absurdly_small_scale_is_a_finding(tmp_path):
    net = Net('gradient')
    wrapper = CpuAmp(torch.optim.AdamW(net.parameters(), 0.01), init_scale=2.0**-22)
    message = stopped(make_runner(tmp_path, net, NaNGuardHook(), data=images(1, 3, 5), optim_wrapper=wrapper))
    assert 'iteration 3' in message
    assert 'the gradients, at every loss scale down to 2.98e-08' in message
    assert "gradient of output of module 'drop'" in message


def test_a_detector_whose_rate_is_absurd(tmp_path):
    pytest.importorskip('mmdet')
    from helpers.tools import CONFIG, overrides, run_command, write_coco

    write_coco(tmp_path, 'train2017', 4, seed=0)
    write_coco(tmp_path, 'val2017', 2, seed=1)
    config = tmp_path / 'config.py'
    config.write_text(
        f"_base_ = {CONFIG!r}\ncustom_hooks = [dict(type='mmsparx.NaNGuardHook')]\nparam_scheduler = None\n"
        "optim_wrapper = dict(_delete_=True, type='OptimWrapper', optimizer=dict(type='SGD', lr=1e30))\n"
    )
    arguments = [config, '--work-dir', tmp_path, '--no-pretrained', '--cfg-options', *overrides(tmp_path)]
    with pytest.raises(FloatingPointError) as error:
        run_command('train', *arguments)
    assert "\n  output of module 'backbone.stem." in str(error.value)
    kept = reproducer(tmp_path, 2)
    assert kept['findings'][0]['name'].startswith('backbone.stem.')
    assert {'loss', 'loss_rpn_cls', 'loss_mask'} < set(kept['losses'])
    assert len(kept['images']) == 2
    for i, image in enumerate(kept['images']):
        assert image['img_path'] in str(error.value)
        assert image['img_shape'] == [64, 64]
        assert kept['tensors'][f'inputs.{i}']['shape'] == [3, 64, 64]
        assert kept['tensors'][f'data_samples.{i}.gt_instances.bboxes']['max'] < 64
    assert kept['versions'].keys() > {'torch', 'mmengine', 'mmcv', 'mmdet', 'mmsparx'}


def test_it_is_found_by_name():
    assert isinstance(HOOKS.build({'type': 'mmsparx.NaNGuardHook', 'action': 'rewind'}), NaNGuardHook)


@pytest.mark.parametrize(
    'options',
    [{'interval': 0}, {'action': 'warn'}, {'factor': 0}, {'factor': 1.5}, {'max_rewinds': -1}, {'min_loss_scale': -1}],
)
def test_bad_arguments(options):
    with pytest.raises(ValueError, match=f'{next(iter(options))}.*got'):
        NaNGuardHook(**options)


def test_runs_that_it_cannot_watch_are_refused_at_the_start(tmp_path):
    foreign = SimpleNamespace(optim_wrapper=SimpleNamespace(optimizer=object()))
    with pytest.raises(ValueError, match='object is not one of them'):
        NaNGuardHook().before_train(foreign)
    options = {'data': images(5), 'runner': FlexibleRunner}
    with pytest.raises(ValueError, match=r"got FlexibleRunner and Net\. Take action='stop'"):
        make_runner(tmp_path, Net(), NaNGuardHook(action='rewind'), **options).train()
    assert "input of module 'head'" in stopped(make_runner(tmp_path, Net('operator'), NaNGuardHook(), **options))
