"""The replay of a training iteration, without a step."""

import copy
import random

import numpy as np
import torch
from mmengine.optim import BaseOptimWrapper, OptimWrapperDict
from mmengine.runner import Runner
from torch.nn.parallel import DataParallel, DistributedDataParallel

from mmsparx.engine.common import losses
from mmsparx.engine.nan_guard.diagnose import Finding, diagnose


def random_state() -> tuple:
    """The state of all random generators of an iteration: torch's on the CPU and the current GPU, numpy's, Python's."""
    cuda = torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None
    return torch.get_rng_state(), cuda, np.random.get_state(), random.getstate()  # noqa: NPY002 (what pipelines use)


def set_random_state(state: tuple) -> None:
    """Restore a state of `random_state`, so that the same numbers are drawn again."""
    cpu, cuda, numpy, python = state
    torch.set_rng_state(cpu)
    if cuda is not None:
        torch.cuda.set_rng_state(cuda)
    np.random.set_state(numpy)  # noqa: NPY002
    random.setstate(python)


def replay(runner: Runner, batch: object, state: tuple) -> list[Finding]:
    """Diagnose an iteration of a run: the model's own `train_step`, in the run's precision, without a step.

    Under DistributedDataParallel the model is run without it, so a rank's gradients are its own. All
    ranks have to take part, since models may reduce over them.

    Args:
        runner: Runner with a built model and optimizer wrapper. Both stay unchanged, except for gradients.
        batch: Batch from the data loader.
        state: State from `random_state` before the iteration; the present one is restored afterwards.
    """
    model = runner.model
    if isinstance(model, (DistributedDataParallel, DataParallel)):
        model = model.module
    wrapper = _without_step(runner.optim_wrapper)

    def run() -> dict:
        set_random_state(state)
        return losses(model.train_step(batch, optim_wrapper=wrapper))

    afterwards = random_state()
    findings = diagnose(model, run)
    set_random_state(afterwards)
    return findings


def _without_step(wrapper: BaseOptimWrapper) -> BaseOptimWrapper:
    """A wrapper that shares all with the one given, and goes as far as the gradients."""
    shadow = copy.copy(wrapper)
    if isinstance(wrapper, OptimWrapperDict):
        shadow.optim_wrappers = {name: _without_step(each) for name, each in wrapper.items()}
    else:
        shadow.step = shadow.zero_grad = lambda **kwargs: None
        shadow._inner_count -= 1  # number of backwards: a loss is divided by those accumulated
    return shadow
