"""Schedules that fit the length of a run, or a warning before it starts."""

import logging
from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field

from mmengine.dataset import InfiniteSampler
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.optim.scheduler import (
    ConstantParamScheduler,
    CosineAnnealingParamScheduler,
    CosineRestartParamScheduler,
    ExponentialParamScheduler,
    LinearParamScheduler,
    MultiStepParamScheduler,
    OneCycleParamScheduler,
    PolyParamScheduler,
    ReduceOnPlateauParamScheduler,
    StepParamScheduler,
    _ParamScheduler,
)
from mmengine.runner import BaseLoop, EpochBasedTrainLoop, IterBasedTrainLoop, Runner
from torch.utils.data import DataLoader

from mmsparx.engine.arguments import accepted_arguments
from mmsparx.registry import HOOKS

# The part of its length by which a schedule may miss its last value: cosines often begin after the warm-up, and keep
# the length of the whole run.
_TOLERANCE = 0.01


@HOOKS.register_module()
class ScheduleCheckHook(Hook):
    """Compare the schedules of a run with its length, as the built runner has them, before the first iteration.

    A schedule is written for a dataset and a batch. On fewer images a warm-up of 1000 iterations may be longer than
    the whole run, which then learns nothing and ends without an error. A warning names each scheduler that

    - warms up for more than half of the run, or never finishes to;
    - has a step (a milestone) at or behind the end of the run, or begins there;
    - anneals towards a last value that the run does not reach, or rises from it again;
    - has annealed before half of the run is over, and leaves the other half to its last value;
    - counts epochs where the loop counts iterations, and so never steps.

    Schedulers of any parameter are compared: learning rate, momentum, weight decay. Those of kinds other than
    mmengine's and mmdet's are compared by `begin` and `end` alone. A resumed run has the schedulers of its checkpoint,
    as mmengine loads them over those of the config; a warning names the settings of the config that have no effect.

    Raises:
        ValueError: An epoch has no batch, as with `drop_last` and fewer images than a batch; raised by the runner.
    """

    def __init__(self) -> None:
        self._configured: list[dict] | None = None

    def after_load_checkpoint(self, runner: Runner, checkpoint: MutableMapping) -> None:
        if runner._resume:  # mmengine loads the schedulers next
            self._configured = [_settings(each.scheduler) for each in _schedules(runner)]

    def before_train(self, runner: Runner) -> None:
        warnings, loader = [], runner.train_loop.dataloader
        by_epoch = isinstance(runner.train_loop, EpochBasedTrainLoop)
        if by_epoch and not len(loader):
            raise ValueError(
                f'the run has no iteration: an epoch of {len(loader.dataset)} images has no whole batch. Set '
                'train_dataloader.batch_size to at most as many, or train_dataloader.drop_last=False'
            )
        if by_epoch and _is_endless(loader):
            warnings.append(
                'the run counts epochs, and its InfiniteSampler ends none, so that neither a validation nor a step by '
                'epochs ever comes. Set train_dataloader.sampler.type=DefaultSampler, or count iterations, with '
                'train_cfg.type=IterBasedTrainLoop and train_cfg.max_iters'
            )
        schedules = list(_schedules(runner, resumed=self._configured is not None))
        for each, configured in zip(schedules, self._configured or (), strict=False):
            warnings += _overruled(each, configured)
        for each in schedules:
            warnings += (each.describe(finding) for finding in _findings(each, schedules))
        for warning in dict.fromkeys(warnings):  # once, where several optimizers have the same schedule
            print_log(warning, logger='current', level=logging.WARNING)


@dataclass
class _Finding:
    """A mismatch of a schedule and the run: a predicate, and values for its arguments, in the schedule's steps.

    Of an argument whose value cannot be proposed, a text says what is expected of it.
    """

    problem: str
    settings: Mapping[str, float | str]


@dataclass
class _Schedule:
    """A scheduler of a run.

    Attributes:
        scheduler: Scheduler, as the runner has built it.
        key: Dotted key in the config, as --cfg-options takes it.
        loop: Training loop.
        per_setting: Steps that a number of the config stands for: the iterations of an epoch if the scheduler was
            converted from epochs, else 1.
        resumed: Whether the scheduler comes from a checkpoint.
    """

    scheduler: _ParamScheduler
    key: str
    loop: BaseLoop
    per_setting: int = 1
    resumed: bool = False
    name: str = field(init=False)

    def __post_init__(self) -> None:
        section, *rest = self.key.split('.')
        self.name = f'{section}{"".join(f"[{part}]" for part in rest)} ({type(self.scheduler).__name__})'

    @property
    def begin(self) -> int:
        return self.scheduler.begin

    @property
    def end(self) -> int:
        return self.scheduler.end

    @property
    def run(self) -> int:
        """Length of the run, in the scheduler's steps."""
        return self.loop.max_epochs if self.scheduler.by_epoch else self.loop.max_iters

    @property
    def steps(self) -> int:
        """Number of steps in which the scheduler acts."""
        return min(self.end, self.run) - self.begin

    @property
    def parameter(self) -> str:
        name = self.scheduler.param_name
        return {'lr': 'the learning rate', 'weight_decay': 'the weight decay'}.get(name, f'the {name}')

    @property
    def warms_up(self) -> str:
        return 'warms up' if self.scheduler.param_name == 'lr' else f'warms up {self.parameter}'

    @property
    def never_steps(self) -> bool:
        """Whether it counts epochs in a loop that has none. By a validation's metrics it steps there, too."""
        by_metrics = getattr(self.scheduler, 'need_val_args', False)
        return self.scheduler.by_epoch and isinstance(self.loop, IterBasedTrainLoop) and not by_metrics

    def since_begin(self, steps: int) -> str:
        return f'{steps}' + (f', from {self.begin} to {self.begin + steps}' if self.begin else '')

    def describe(self, finding: _Finding) -> str:
        by_epoch = self.scheduler.by_epoch and not self.never_steps
        length, unit = (self.run, 'epoch') if by_epoch else (self.loop.max_iters, 'iteration')
        problem = f'the run has {length} {unit}{"s" * (length != 1)}; {self.name} {finding.problem}. '
        if self.resumed:
            return f'{problem}It comes from the checkpoint: to change it, start a run with load_from in place of resume'
        parts = []
        for name, value in finding.settings.items():
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                value = value / self.per_setting
                value = f'--cfg-options {self.key}.{name}={round(value) if value >= 1 else round(value, 2)}'
            parts.append(f'{self.key}.{name}{" in epochs" if self.per_setting > 1 else ""}: {value}')
        return f'{problem}Set {", and ".join(parts)}'


def _schedules(runner: Runner, resumed: bool = False) -> Iterator[_Schedule]:
    """The schedulers of a built runner, with the keys of the settings that they were built from."""
    built, config = runner.param_schedulers, runner.cfg.get('param_scheduler')
    for optimizer, schedulers in built.items() if isinstance(built, Mapping) else [(None, built or ())]:
        key, settings = 'param_scheduler', config
        if isinstance(config, Mapping) and 'type' not in config:
            key, settings = f'param_scheduler.{optimizer}', config.get(optimizer)
        for i, scheduler in enumerate(schedulers):
            single = isinstance(settings, Mapping)
            own = settings if single or not settings else settings[i]
            converted = isinstance(own, Mapping) and own.get('convert_to_iter_based')
            yield _Schedule(
                scheduler,
                key if single else f'{key}.{i}',
                runner.train_loop,
                per_setting=len(runner.train_loop.dataloader) if converted else 1,
                resumed=resumed,
            )


def _is_endless(loader: DataLoader) -> bool:
    samplers = (loader.sampler, getattr(loader.batch_sampler, 'sampler', None))
    return any(isinstance(sampler, InfiniteSampler) for sampler in samplers)


def _settings(scheduler: _ParamScheduler) -> dict:
    """The arguments that a scheduler was made with, as far as it keeps them."""
    names = (accepted_arguments(type(scheduler)) or set()) - {'last_step', 'verbose', 'optimizer'}
    return {name: value for name, value in vars(scheduler).items() if name in names}


def _overruled(each: _Schedule, configured: Mapping) -> Iterator[str]:
    for name, value in _settings(each.scheduler).items():
        if name in configured and configured[name] != value:
            was, now = (list(x.elements()) if name == 'milestones' else x for x in (configured[name], value))
            yield (
                f'{each.name} is resumed with {name}={now} of the checkpoint, and {name}={was} of the config has no '
                'effect. To change it, start a run with load_from in place of resume'
            )


def _findings(each: _Schedule, schedules: Sequence[_Schedule]) -> Iterable[_Finding]:
    """The first mismatch of a schedule and its run, if any."""
    scheduler = each.scheduler
    if isinstance(scheduler, ConstantParamScheduler) and scheduler.factor == 1:  # changes nothing
        return ()
    if each.never_steps:
        return [
            _Finding('counts epochs, and the loop counts iterations, so that it never steps', {'by_epoch': 'False'})
        ]
    if each.begin >= each.run:
        return [_Finding(f'begins at {each.begin}', {'begin': f'a number below {_in_settings(each, each.run)}'})]
    match scheduler:
        case LinearParamScheduler() if scheduler.start_factor < scheduler.end_factor:
            return _of_warm_up(each, least=2)
        case LinearParamScheduler() if scheduler.start_factor > scheduler.end_factor:
            return _of_annealing(each, each.end - each.begin, 'end', schedules)
        case ConstantParamScheduler() if each.begin == 0 or each.end != each.run:  # else a drop until the end
            return _of_warm_up(each, least=2)
        case PolyParamScheduler():
            return _of_annealing(each, each.end - each.begin, 'end', schedules)
        case CosineAnnealingParamScheduler():
            return _of_annealing(each, scheduler.T_max, 'T_max', schedules)
        case CosineRestartParamScheduler():
            return _of_restarts(each, schedules)
        case OneCycleParamScheduler():
            return _of_cycle(each, schedules)
        case MultiStepParamScheduler():
            return _of_milestones(each)
        case StepParamScheduler():
            return _of_step_size(each)
        case ExponentialParamScheduler() | ReduceOnPlateauParamScheduler() | LinearParamScheduler():
            return ()
        case ConstantParamScheduler():
            return ()
    # mmdet, which need not be installed, has one more warm-up.
    if any(cls.__name__ == 'QuadraticWarmupParamScheduler' for cls in type(scheduler).__mro__):
        return _of_warm_up(each)
    if each.run < each.end:
        return [_Finding(f'ends at {each.end}', {'end': each.run})]
    return ()


def _in_settings(each: _Schedule, steps: int) -> str:
    return f'{steps / each.per_setting:g}'


def _of_warm_up(each: _Schedule, least: int = 1) -> Iterator[_Finding]:
    """`least` steps are what it needs to finish: mmengine leaves a linear warm-up of one at its start."""
    steps, half = each.end - each.begin, each.run / 2
    if each.scheduler._global_step >= each.end or each.begin > half:  # over, of a resumed run; or a rise at the end
        return
    share = max(each.run // 10, least)
    if each.end > half:
        problem = f'{each.warms_up} for {each.since_begin(steps)}'
    elif steps < least:
        problem = f'{each.warms_up} for {steps}, in which mmengine leaves {each.parameter} at its start'
    else:
        return
    if each.begin + share <= half:
        settings = {'end': each.begin + share}
    else:
        settings = {'by_epoch': 'False, with begin and end in iterations'}
    yield _Finding(problem, settings)


def _of_annealing(
    each: _Schedule, needed: int, setting: str, schedules: Sequence[_Schedule], rises: bool = True
) -> Iterator[_Finding]:
    """Findings of a schedule that reaches its last value in `needed` steps, and `rises` after it if it still acts."""
    missing, tolerance = needed - each.steps, max(1, _TOLERANCE * needed)
    settings = {setting: min(each.end, each.run) - (0 if setting == 'end' else each.begin)}
    if missing > tolerance:
        stops = f' and ends at {each.end},' if each.end < each.run else ''
        problem = f'anneals {each.parameter} in {each.since_begin(needed)},{stops} and does not reach its minimum'
        yield _Finding(problem, settings)
    elif rises and -missing > tolerance:
        yield _Finding(
            f'anneals {each.parameter} in {each.since_begin(needed)}, and does not stay at its minimum but rises again',
            settings,
        )
    else:
        yield from _of_early_end(each, each.begin + needed, setting, schedules)


def _of_early_end(each: _Schedule, last: int, setting: str, schedules: Sequence[_Schedule]) -> Iterator[_Finding]:
    """Findings of a schedule at its last value from the step `last` on, if no other schedule continues."""
    follows = any(
        other.scheduler.optimizer is each.scheduler.optimizer
        and other.scheduler.param_name == each.scheduler.param_name
        and other.begin + other.steps > last
        for other in schedules
        if other is not each
    )
    if last <= each.run / 2 and not follows:
        settings = {setting: each.run - each.begin} if setting != 'end' else {}
        problem = f'has annealed {each.parameter} at {last}, and trains the rest with its minimum'
        yield _Finding(problem, settings | {'end': each.run})


def _of_restarts(each: _Schedule, schedules: Sequence[_Schedule]) -> Iterator[_Finding]:
    ends = each.scheduler.cumulative_periods
    if each.steps >= ends[-1]:
        yield from _of_early_end(each, each.begin + ends[-1], 'periods', schedules)
    elif all(abs(end - each.steps) > max(1, _TOLERANCE * end) for end in ends):
        problem = f'has periods that end at {_listed(each.begin + end for end in ends)}, and breaks one off'
        yield _Finding(problem, {'periods': f'numbers whose sum is {_in_settings(each, each.steps)}'})


def _of_cycle(each: _Schedule, schedules: Sequence[_Schedule]) -> Iterator[_Finding]:
    total = each.scheduler.total_steps
    warm_up = each.begin + each.scheduler._schedule_phases[0]['end_step'] + 1
    if each.steps - 1 > total:
        problem = f'has a cycle of {each.since_begin(total)}, behind which mmengine ends the run with an error'
        yield _Finding(problem, {'total_steps': each.steps})
        return
    too_long = list(_of_annealing(each, total, 'total_steps', schedules, rises=False))
    yield from too_long
    if not too_long and warm_up > each.run / 2:
        yield _Finding(f'{each.warms_up} until {warm_up:g}', {'pct_start': 'a share, such as 0.3'})


def _of_milestones(each: _Schedule) -> Iterator[_Finding]:
    late = sorted(each.begin + step for step in each.scheduler.milestones if step >= each.steps)
    if late:
        expected = f'numbers below {_in_settings(each, each.steps)}'
        yield _Finding(f'has a step at {_listed(late)}, which is not reached', {'milestones': expected})


def _of_step_size(each: _Schedule) -> Iterator[_Finding]:
    size = each.scheduler.step_size
    if size >= each.steps:
        expected = f'a number below {_in_settings(each, each.steps)}'
        yield _Finding(f'has its first step at {each.begin + size}, which is not reached', {'step_size': expected})


def _listed(steps: Iterable[int]) -> str:
    return ' and '.join(map(str, steps))
