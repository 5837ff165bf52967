"""ScheduleCheckHook's messages on schedules and the length of a run, with runners of a small network."""

import re

import pytest

pytest.importorskip('mmengine', reason='the hook reads a runner of mmengine')
from helpers.runners import Net, images, make_runner
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.optim.scheduler import LinearParamScheduler, _ParamScheduler
from mmengine.registry import PARAM_SCHEDULERS
from torch.optim import SGD

from mmsparx.engine.hooks import schedule_check

ITERS = 20
EPOCHS = 5  # of 4 iterations

by_iteration = dict(by_epoch=False)
converted = dict(by_epoch=True, convert_to_iter_based=True)


HOOK = dict(type='mmsparx.ScheduleCheckHook')


class Stop(Hook):
    """Ends a run before its first iteration, after the hooks before it."""

    def before_train(self, runner):
        runner.train_loop._max_epochs = runner.train_loop._max_iters = 0


STOP = Stop()


@pytest.fixture
def logged(monkeypatch):
    lines = []
    monkeypatch.setattr(schedule_check, 'print_log', lambda message, **_: lines.append(message))
    return lines


@pytest.fixture
def warn(logged, tmp_path):
    """The warnings before a run of 20 iterations, or of epochs of 4, with these schedulers."""

    def run(*schedulers, epochs=None, net=None, hooks=(HOOK, STOP), **options):
        if epochs:
            options['train_cfg'] = dict(by_epoch=True, max_epochs=epochs)
        if schedulers:
            options['param_scheduler'] = schedulers[0] if len(schedulers) == 1 else list(schedulers)
            options['cfg'] = dict(param_scheduler=options['param_scheduler'])  # as Runner.from_cfg does
        iters = None if epochs else ITERS
        runner = make_runner(tmp_path, net or Net(), *hooks, data=images(), iters=iters, **options)
        runner.train()
        lines = list(logged)
        logged.clear()
        return lines

    return run


def linear(end, **more):
    return dict(type='LinearLR', start_factor=0.1, end=end, **by_iteration) | more


def cosine(T_max, **more):
    return dict(type='CosineAnnealingLR', T_max=T_max, eta_min=0, **by_iteration) | more


def test_the_whole_text(warn):
    (line,) = warn(linear(1000), cosine(ITERS))
    assert line == (
        'the run has 20 iterations; param_scheduler[0] (LinearLR) warms up for 1000. '
        'Set param_scheduler.0.end: --cfg-options param_scheduler.0.end=2'
    )


FITS = {
    'none': [],
    'warm-up and cosine': [linear(5), cosine(15, begin=5)],
    'a warm-up of half of the run': [linear(10)],
    'a cosine that counts the warm-up': [linear(5), cosine(20)],
    'a cosine and a cool-down': [cosine(18, end=19)],
    'steps': [dict(type='MultiStepLR', milestones=[10, 19], **by_iteration)],
    'steps from a begin': [dict(type='MultiStepLR', milestones=[4, 9], begin=10, **by_iteration)],
    'step size': [dict(type='StepLR', step_size=19, **by_iteration)],
    'a decay': [dict(type='LinearLR', start_factor=1, end_factor=0.1, **by_iteration)],
    'a constant': [dict(type='ConstantLR', factor=1.0, **by_iteration)],
    'a constant at the end': [dict(type='ConstantLR', factor=1.0, begin=18, end=30, **by_iteration)],
    'a drop until the end': [dict(type='ConstantLR', factor=0.1, begin=15, **by_iteration)],
    'poly': [linear(2), dict(type='PolyLR', eta_min=0, begin=2, **by_iteration)],
    'exponential': [dict(type='ExponentialLR', gamma=0.9, **by_iteration)],
    'one cycle': [dict(type='OneCycleLR', eta_max=0.1, total_steps=ITERS, **by_iteration)],
    'one cycle by default': [dict(type='OneCycleLR', eta_max=0.1, **by_iteration)],
    'restarts': [dict(type='CosineRestartLR', periods=[5, 15], restart_weights=[1, 1], eta_min=0, **by_iteration)],
    'two cosines': [cosine(8, end=8), cosine(12, begin=8)],
}


@pytest.mark.parametrize('name', FITS)
def test_matches(warn, name):
    assert warn(*FITS[name]) == []


LR = 'param_scheduler'
# Schedulers, and for each that does not fit the message and the setting to change.
FAULTS = {
    'linear': (linear(11), 'warms up for 11', f'{LR}.end=2'),
    'linear without an end': (
        dict(type='LinearLR', start_factor=0.1, **by_iteration), 'warms up for 20', f'{LR}.end=2',
    ),
    'linear of one step': (linear(1), 'up for 1, in which mmengine leaves', f'{LR}.end=2'),
    'linear from a begin': (linear(15, begin=5), 'up for 10, from 5 to 15', f'{LR}.end=7'),
    'constant': (
        dict(type='ConstantLR', factor=0.1, end=12, **by_iteration), 'warms up for 12', f'{LR}.end=2',
    ),
    'constant of one step': (
        dict(type='ConstantLR', end=1, **by_iteration), 'for 1, in which mmengine leaves', f'{LR}.end=2',
    ),
    'momentum': (
        dict(type='LinearMomentum', start_factor=0.1, end=30, **by_iteration), 'warms up the momentum for 30',
        f'{LR}.end=2',
    ),
    'weight decay': (
        dict(type='LinearParamScheduler', param_name='weight_decay', start_factor=0.1, end=30, **by_iteration),
        'warms up the weight decay for 30', f'{LR}.end=2',
    ),
    'a decay': (
        dict(type='LinearLR', start_factor=1, end_factor=0.1, end=40, **by_iteration),
        'anneals the learning rate in 40, and does not reach its minimum', f'{LR}.end=20',
    ),
    'poly': (
        dict(type='PolyLR', eta_min=0, begin=2, end=160, **by_iteration),
        'in 158, from 2 to 160, and does not reach its minimum', f'{LR}.end=20',
    ),
    'poly that ends early': (
        dict(type='PolyLR', eta_min=0, end=8, **by_iteration),
        'has annealed the learning rate at 8, and trains the rest with its minimum', f'{LR}.end=20',
    ),
    'a long cosine': (cosine(30), 'anneals the learning rate in 30, and does not reach its minimum', f'{LR}.T_max=20'),
    'a cosine that is stopped': (cosine(20, end=12), 'in 20, and ends at 12, and does not reach', f'{LR}.T_max=12'),
    'a short cosine': (cosine(12), 'in 12, and does not stay at its minimum but rises again', f'{LR}.T_max=20'),
    'a cosine that ends early': (cosine(8, end=8), 'has annealed the learning rate at 8', f'{LR}.T_max=20'),
    'milestones': (
        dict(type='MultiStepLR', milestones=[10, 20, 99], **by_iteration),
        'has a step at 20 and 99, which is not reached', f'{LR}.milestones: numbers below 20',
    ),
    'milestones from a begin': (
        dict(type='MultiStepLR', milestones=[4, 10], begin=10, **by_iteration),
        'has a step at 20, which', f'{LR}.milestones: numbers below 10',
    ),
    'milestones behind its own end': (
        dict(type='MultiStepMomentum', milestones=[4, 12], end=12, **by_iteration),
        'has a step at 12, which', f'{LR}.milestones: numbers below 12',
    ),
    'step size': (
        dict(type='StepLR', step_size=20, **by_iteration), 'has its first step at 20, which is not reached',
        f'{LR}.step_size: a number below 20',
    ),
    'a begin': (dict(type='ExponentialLR', gamma=0.9, begin=20, end=99, **by_iteration), 'begins at 20', f'{LR}.begin'),
    'one cycle': (
        dict(type='OneCycleLR', eta_max=0.1, total_steps=40, **by_iteration),
        'anneals the learning rate in 40, and does not reach its minimum', f'{LR}.total_steps=20',
    ),
    'a late peak': (
        dict(type='OneCycleLR', eta_max=0.1, pct_start=0.8, **by_iteration), 'warms up until 16',
        f'{LR}.pct_start: a share, such as 0.3',
    ),
    'restarts': (
        dict(type='CosineRestartLR', periods=[5, 30], restart_weights=[1, 1], eta_min=0, **by_iteration),
        'has periods that end at 5 and 35, and breaks one off', f'{LR}.periods: numbers whose sum is 20',
    ),
    'epochs in a loop of iterations': (
        dict(type='MultiStepLR', milestones=[8, 11]),
        'counts epochs, and the loop counts iterations, so that it never steps', f'{LR}.by_epoch: False',
    ),
}  # fmt: skip


@pytest.mark.parametrize('name', FAULTS)
def test_mismatches(warn, name):
    scheduler, said, remedy = FAULTS[name]
    (line,) = warn(scheduler, optim_wrapper=dict(optimizer=dict(type='SGD', lr=1e-3, momentum=0.9)))
    assert line.startswith(f'the run has 20 iterations; {LR} ({scheduler["type"]}) ')
    assert said in line
    assert remedy in line.partition('Set ')[2]


def test_an_error_in_the_run_is_predicted(warn, logged):
    with pytest.raises(ValueError, match='Tried to step'):
        warn(dict(type='OneCycleLR', eta_max=0.1, total_steps=10, **by_iteration), hooks=[HOOK])
    assert 'has a cycle of 10, behind which mmengine ends the run with an error' in logged[0]
    assert logged[0].endswith(f'--cfg-options {LR}.total_steps=20')


OF_EPOCHS = {
    'fits': (dict(type='MultiStepLR', milestones=[3, 4]), None),
    'milestones': (
        dict(type='MultiStepLR', milestones=[3, 8, 11], end=12),
        'has 5 epochs; .*a step at 8 and 11, .*: numbers below 5',
    ),
    'warm-up': (linear(3, by_epoch=True), r'has 5 epochs; .* up for 3\. Set .*end=2$'),
    'iterations': (linear(11), r'has 20 iterations; .* up for 11\. Set .*end=2$'),
    'iterations that fit': (linear(10), None),
    'converted, fits': (linear(2, **converted), None),
    'converted': (
        linear(3, **converted),
        r'has 20 iterations; .* up for 12\. Set param_scheduler\.end in epochs: .*=0\.5$',
    ),
    'converted milestones': (
        dict(type='MultiStepLR', milestones=[3, 8], **converted),
        r'has 20 iterations; .*step at 32, .*: numbers below 5',
    ),
    'converted cosine': (cosine(12, **converted), r'in 48, and .*\. Set param_scheduler\.T_max in epochs: .*T_max=5$'),
    'converted cosine, fits': (cosine(5, **converted), None),
}  # fmt: skip


@pytest.mark.parametrize('name', OF_EPOCHS)
def test_a_run_of_epochs(warn, name):
    scheduler, said = OF_EPOCHS[name]
    lines = warn(scheduler, epochs=EPOCHS)
    assert len(lines) == (said is not None)
    assert said is None or re.search(said, lines[0])


def test_one_epoch_has_no_share_for_a_warm_up(warn):
    (line,) = warn(linear(1, by_epoch=True), epochs=1)
    assert line.endswith('Set param_scheduler.by_epoch: False, with begin and end in iterations')


def test_a_run_without_iterations(tmp_path):
    loader = dict(dataset=images(), batch_size=16, drop_last=True, sampler=dict(type='DefaultSampler', shuffle=True))
    runner = make_runner(tmp_path, Net(), HOOK, data=[], train_dataloader=loader)
    with pytest.raises(ValueError, match=r'an epoch of 8 images has no whole batch\. Set train_dataloader\.batch_size'):
        runner.train()


def test_an_infinite_sampler(logged, tmp_path):
    """Its epochs never end; with iterations it is the usual sampler, see above."""
    loader = dict(dataset=images(), batch_size=2, sampler=dict(type='InfiniteSampler'))
    runner = make_runner(tmp_path, Net(), HOOK, Stop(), data=[], train_dataloader=loader)
    runner.train()
    (line,) = logged
    assert 'its InfiniteSampler ends none' in line


class TestOptimizers:
    @staticmethod
    def wrappers(net):
        return OptimWrapperDict(
            **{name: OptimWrapper(SGD(getattr(net, name).parameters(), lr=1e-3)) for name in ('stem', 'head')}
        )

    def run(self, warn, schedulers):
        net = TwoOptimizers()
        return warn(schedulers, net=net, optim_wrapper=self.wrappers(net))

    def test_each_with_its_own(self, warn):
        lines = self.run(warn, dict(stem=[linear(4), linear(40)], head=linear(50)))
        assert [re.search(r'; (\S+ \S+) .*=(\d+)$', line).groups() for line in lines] == [
            ('param_scheduler[stem][1] (LinearLR)', '2'),
            ('param_scheduler[head] (LinearLR)', '2'),
        ]
        assert '--cfg-options param_scheduler.stem.1.end=2' in lines[0]
        assert '--cfg-options param_scheduler.head.end=2' in lines[1]

    def test_all_with_one(self, warn):
        (line,) = self.run(warn, [linear(40)])
        assert 'param_scheduler[0] (LinearLR)' in line


class TwoOptimizers(Net):
    def train_step(self, data, optim_wrapper):
        losses = self(**self.data_preprocessor(data, True), mode='loss')
        loss, logged = self.parse_losses(losses)
        loss.backward()
        for wrapper in optim_wrapper.values():
            wrapper.step()
            wrapper.zero_grad()
        return logged


class TestOfOtherKinds:
    @pytest.fixture(autouse=True)
    def _registered(self):
        class Warm(LinearParamScheduler):
            def __init__(self, optimizer, *args, **kwargs):
                super().__init__(optimizer, 'lr', *args, **kwargs)

        class Own(_ParamScheduler):
            def __init__(self, optimizer, *args, **kwargs):
                super().__init__(optimizer, 'lr', *args, **kwargs)

            def _get_value(self):
                return [group['lr'] for group in self.optimizer.param_groups]

        for cls in (Warm, Own):
            PARAM_SCHEDULERS.register_module(name=f'Test{cls.__name__}', module=cls, force=True)
        yield
        for cls in (Warm, Own):
            del PARAM_SCHEDULERS.module_dict[f'Test{cls.__name__}']

    def test_a_subclass(self, warn):
        (line,) = warn(dict(type='TestWarm', start_factor=0.1, end=30, **by_iteration))
        assert '(Warm) warms up for 30' in line

    def test_an_end_beyond_the_run(self, warn):
        (line,) = warn(dict(type='TestOwn', end=30, **by_iteration))
        assert '(Own) ends at 30. Set param_scheduler.end: --cfg-options param_scheduler.end=20' in line
        assert not warn(dict(type='TestOwn', end=20, **by_iteration))
        assert not warn(dict(type='TestOwn', **by_iteration))

    def test_quadratic_warm_up(self, warn):
        pytest.importorskip('mmdet')
        quadratic = dict(type='mmdet.QuadraticWarmupLR', **by_iteration)
        assert not warn(quadratic | dict(end=10))
        (line,) = warn(quadratic | dict(end=11))
        assert '(QuadraticWarmupLR) warms up for 11' in line


class TestResumed:
    @pytest.fixture
    def resume(self, logged, tmp_path):
        """Train for 12 of 20 iterations with one schedule, and the rest with another in the config."""

        def run(before, after, iters=ITERS):
            checkpoint = dict(checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=12))
            options = dict(data=images(), default_hooks=checkpoint)
            make_runner(tmp_path, Net(), iters=12, param_scheduler=before, **options).train()
            make_runner(tmp_path, Net(), HOOK, iters=iters, param_scheduler=after, resume=True, **options).train()
            return logged

        return run

    def test_a_setting_of_the_config_that_has_no_effect(self, resume):
        overruled, longer = resume([linear(1000)], [linear(5)])
        assert overruled.startswith(
            'param_scheduler[0] (LinearLR) is resumed with end=1000 of the checkpoint, and end=5 '
        )
        assert 'warms up for 1000. It comes from the checkpoint' in longer

    def test_a_longer_run(self, resume):
        (line,) = resume([cosine(12, end=99)], [cosine(12, end=99)])
        assert 'rises again. It comes from the checkpoint: to change it, start a run with load_from' in line

    def test_a_warm_up_that_is_over(self, resume):
        assert not resume([linear(11)], [linear(11)])

    def test_nothing_to_resume(self, warn):
        (line,) = warn([linear(1000)], resume=True)
        assert line.endswith('--cfg-options param_scheduler.0.end=2')
