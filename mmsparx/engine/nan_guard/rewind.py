"""The return to a run's last good weights while its schedule goes on."""

import logging
import math
from itertools import chain

from mmengine.hooks import CheckpointHook
from mmengine.logging import print_log
from mmengine.optim import BaseOptimWrapper, OptimWrapperDict
from mmengine.runner import CheckpointLoader, Runner

from mmsparx.engine.common import named_tensors
from mmsparx.engine.nan_guard.diagnose import not_finite, not_finite_weights
from mmsparx.engine.resume import whole_checkpoints
from mmsparx.weights.loading import unwrapped

# Rates of a parameter group and of a scheduler. A schedule whose start, ends and present
# value are scaled goes on as the same schedule, scaled.
_RATES_OF_GROUP = ('lr', 'initial_lr', 'max_lr', 'min_lr')
_RATES_OF_SCHEDULER = ('base_values', 'eta_min', 'min_values')


def single_wrappers(optim_wrapper: BaseOptimWrapper) -> list[BaseOptimWrapper]:
    """The wrappers of one optimizer each."""
    return list(optim_wrapper.values()) if isinstance(optim_wrapper, OptimWrapperDict) else [optim_wrapper]


def last_good_checkpoint(runner: Runner) -> str | None:
    """The run's newest checkpoint that is whole, holds the optimizer's state, and is finite in all.

    A checkpoint that is ahead of the run belongs to another run, and is passed over.
    """
    folder = next((hook.out_dir for hook in runner.hooks if isinstance(hook, CheckpointHook)), runner.work_dir)
    for path in map(str, whole_checkpoints(folder)):
        try:
            fault = _fault(CheckpointLoader.load_checkpoint(path, map_location='cpu'), runner)
        except Exception as error:  # whatever a file of that name ends in, an older one may do
            fault = f'{type(error).__name__}: {error}'
        if fault is None:
            return path
        print_log(f'passed over: {path}: {fault}', logger='current', level=logging.WARNING)
    return None


def _fault(checkpoint: dict, runner: Runner) -> str | None:
    if 'optimizer' not in checkpoint:
        return 'it holds no optimizer (save_optimizer=False)'
    if checkpoint.get('meta', {}).get('iter', math.inf) > runner.iter:
        return f'it is ahead of this run, which has done {runner.iter} iterations'
    model = unwrapped(runner.model)
    copies = [checkpoint.pop(key) for key in ('state_dict', 'ema_state_dict') if key in checkpoint]
    findings = chain(
        chain.from_iterable(not_finite_weights(weights, model) for weights in copies),
        not_finite('value', named_tensors(checkpoint)),
    )
    return next(map(str, findings), None)


def go_back(runner: Runner, checkpoint: str, factor: float) -> None:
    """Load model, averaged model, optimizer state and loss scale, and multiply every learning rate by `factor`.

    Schedules keep their place and their shape: the values that a scheduler of mmengine computes from now on are
    multiplied by `factor`, to its end and in later checkpoints.

    Raises:
        RuntimeError: the checkpoint is of another model.
    """
    wrappers = single_wrappers(runner.optim_wrapper)
    settings = [[_without_parameters(group) for group in wrapper.param_groups] for wrapper in wrappers]
    resume, runner._resume = runner._resume, True  # else EMAHook takes the averaged weights for the model's
    try:
        state = runner.load_checkpoint(checkpoint, strict=True)
    finally:
        runner._resume = resume
    runner.optim_wrapper.load_state_dict(state['optimizer'])
    runner.optim_wrapper.zero_grad()
    for wrapper, groups in zip(wrappers, settings, strict=True):
        for group, values in zip(wrapper.param_groups, groups, strict=True):
            group.update(values)
            _scale(group, _RATES_OF_GROUP, factor)
    schedulers = runner.param_schedulers or []
    for scheduler in chain.from_iterable(schedulers.values()) if isinstance(schedulers, dict) else schedulers:
        if scheduler.param_name == 'lr':
            _scale(vars(scheduler), _RATES_OF_SCHEDULER, factor)


def _without_parameters(group: dict) -> dict:
    return {name: value for name, value in group.items() if name != 'params'}


def _scale(values: dict, names: tuple[str, ...], factor: float) -> None:
    for name in names:
        if (value := values.get(name)) is not None:
            values[name] = [each * factor for each in value] if isinstance(value, list) else value * factor
