"""A hook for losses and gradients that are not finite."""

import re
from collections.abc import Mapping
from dataclasses import asdict, replace
from itertools import groupby
from pathlib import Path

import torch
from mmengine.dist import all_gather_object, all_reduce, broadcast_object_list, get_rank, get_world_size
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from mmsparx.engine.common import losses, named_tensors, samples
from mmsparx.engine.nan_guard.diagnose import Finding, all_finite, not_finite
from mmsparx.engine.nan_guard.replay import random_state, replay
from mmsparx.engine.nan_guard.reproducer import write_reproducer
from mmsparx.engine.nan_guard.rewind import go_back, last_good_checkpoint, single_wrappers
from mmsparx.registry import HOOKS

_ADVICE = (
    'To fix it, check the images, lower the learning rate, or set optim_wrapper.clip_grad=dict(max_norm=...); in half '
    'precision, which ends at 65504, train in bfloat16, or run that module in float32'
)
_NOT_FOUND = (
    'the replay was finite: batch, weights and random numbers do not explain the fault. Kernels without a fixed '
    'order, or the state of an earlier iteration, may be the cause'
)


@HOOKS.register_module()
class NaNGuardHook(Hook):
    """Notice a loss or gradient that is not finite before it reaches the weights, and say where it comes from.

    Gradients are checked when an optimizer is about to step: where one is not finite, that optimizer
    takes no step. Losses are checked after the iteration; a gradient that is still being accumulated,
    too. A step that a GradScaler skips because its scaling overflowed is its own affair, until the scale
    has fallen so low that no scaling helps. All ranks of a distributed run act together.

    Then the iteration is replayed, on the same batch with the same random numbers, without a step and
    with an eye on every module (see `diagnose`), and the message names the first module whose output or
    gradient is not finite. The data needed to investigate the iteration are written to
    `nan_guard/iter_<n>_rank_<r>.json` in the work directory by each rank that found something: seed,
    progress, losses, precision, learning rates, findings, and for every image and tensor of the batch its
    source and contents. Iterations and epochs are counted from 1 there, as in the log.

    `action='rewind'` then loads the last good checkpoint of the run (model, averaged model, optimizer,
    loss scale), lowers every learning rate permanently, and goes on with the next batch. Iterations are not counted
    back: data loader and schedules cannot be wound back, and what is a function of the iteration, such
    as the random numbers of `IterationSeedHook`, should not be the same again.

    A healthy run is the same, bit for bit, with and without this hook. The hook does not detect iterations that
    end in an error of the model itself, and overflow under a fixed loss scale, which skips every step.

    Args:
        interval: Interval of checks, in iterations. Faults in between reach the weights.
        action: Action on a fault: 'stop' ends the run; 'rewind' goes back, up to `max_rewinds` times, then stops.
        factor: Factor of every learning rate when going back, in (0, 1].
        max_rewinds: Largest number of times to go back.
        min_loss_scale: Lowest scale of a GradScaler. Below the default, the smallest number of
            float16, the gradient that a backward begins with is 0 in float16: a value that is not finite then
            is so at every scale. From its usual start it has then halved more than 40 times.

    Raises:
        ValueError: an argument is out of range; or when training begins, the optimizer is not torch's,
            or going back is not possible: in FlexibleRunner, or where a wrapper shards the model.
        FloatingPointError: the message of 'stop'.
    """

    # After what seeds and resizes, before what averages, logs and saves.
    priority = 'ABOVE_NORMAL'

    def __init__(
        self,
        interval: int = 1,
        action: str = 'stop',
        factor: float = 0.5,
        max_rewinds: int = 3,
        min_loss_scale: float = 2.0**-24,
    ):
        if interval < 1:
            raise ValueError(f'interval: expected a number of iterations of at least 1, got {interval}')
        if action not in ('stop', 'rewind'):
            raise ValueError(f"action: expected 'stop' or 'rewind', got {action!r}")
        if not 0 < factor <= 1:
            raise ValueError(f'factor: expected a number above 0 and up to 1, got {factor}')
        if max_rewinds < 0 or min_loss_scale < 0:
            raise ValueError(f'expected max_rewinds and min_loss_scale >= 0, got {max_rewinds} and {min_loss_scale}')
        self.interval = interval
        self.action = action
        self.factor = factor
        self.max_rewinds = max_rewinds
        self.min_loss_scale = min_loss_scale
        self.rewinds = 0

    def before_train(self, runner: Runner) -> None:
        optimizers = [wrapper.optimizer for wrapper in single_wrappers(runner.optim_wrapper)]
        if foreign := [type(each).__name__ for each in optimizers if not isinstance(each, Optimizer)]:
            raise ValueError(
                f"NaNGuardHook watches torch's optimizers before they step, and {foreign[0]} is not one of them. Leave "
                'the hook out of custom_hooks'
            )
        sharded = is_model_wrapper(runner.model) and not isinstance(runner.model, DistributedDataParallel)
        if self.action == 'rewind' and (sharded or not isinstance(runner, Runner)):
            raise ValueError(
                "NaNGuardHook(action='rewind') loads checkpoints into a model that is whole on every rank, under "
                f"mmengine's Runner; got {type(runner).__name__} and {type(runner.model).__name__}. Take action='stop'"
            )
        self._dropped = False
        self._due = False
        self._handles = [optimizer.register_step_pre_hook(self._before_step) for optimizer in optimizers]

    def after_train(self, runner: Runner) -> None:
        for handle in self._handles:
            handle.remove()

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch=None) -> None:
        self._due = self.every_n_train_iters(runner, self.interval)
        if self._due:
            self._random_state = random_state()

    def _before_step(self, optimizer: Optimizer, args: tuple, kwargs: dict) -> None:
        # A GradScaler lets a fused optimizer judge for itself, by `found_inf`.
        if self._due and not hasattr(optimizer, 'found_inf') and not all_finite(_gradients(optimizer)):
            self._dropped = True
            optimizer.zero_grad(set_to_none=True)  # without gradients there is no step

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs: dict | None = None) -> None:
        if not self._due:
            return
        symptoms = self._symptoms(runner, outputs)
        concerned = torch.tensor(float(bool(symptoms)))
        all_reduce(concerned, 'max')
        if not concerned:
            return
        report = self._report(runner, data_batch, outputs, symptoms)
        if self.action == 'stop':
            self._stop(runner, report)
        if self.rewinds == self.max_rewinds:
            self._stop(runner, f'{report}\nThe run stops: it has gone back {self.rewinds} times, as max_rewinds allows')
        checkpoint = [last_good_checkpoint(runner) if get_rank() == 0 else None]
        broadcast_object_list(checkpoint)
        if checkpoint[0] is None:
            self._stop(runner, f'{report}\nThe run stops: there is no good checkpoint of it to go back to')
        go_back(runner, checkpoint[0], self.factor)
        self.rewinds += 1
        runner.logger.warning(
            f'{report}\nThe run goes on from {checkpoint[0]} with {self.factor} times the rates (rewind {self.rewinds} '
            f'of {self.max_rewinds})'
        )

    def _symptoms(self, runner: Runner, outputs: dict | None) -> list[str]:
        """Faults that this rank sees without a replay."""
        values = {name: torch.as_tensor(value) for name, value in losses(outputs).items()}
        symptoms = [] if all_finite(values.values()) else [str(each) for each in not_finite('loss', values.items())]
        for wrapper in single_wrappers(runner.optim_wrapper):
            scaler = getattr(wrapper, 'loss_scaler', None)
            if scaler is None:  # gradients that are left are still accumulated
                self._dropped = self._dropped or not all_finite(_gradients(wrapper.optimizer))
            elif scaler.get_scale() < self.min_loss_scale:
                symptoms.append(f'the gradients, at every loss scale down to {scaler.get_scale():.3g}')
        if self._dropped:
            symptoms.append('a gradient')
        self._dropped = False
        return symptoms

    def _report(self, runner: Runner, batch: object, outputs: dict | None, symptoms: list[str]) -> str:
        """Replay the iteration, write this rank's reproducer, and say what all ranks found."""
        findings = [*_in_batch(batch), *replay(runner, batch, self._random_state)]
        path = Path(runner.work_dir, 'nan_guard', f'iter_{runner.iter + 1}_rank_{get_rank()}.json')
        images = [str(sample.metainfo['img_path']) for sample in samples(batch) if 'img_path' in sample.metainfo]
        by_kind = [list(group) for _, group in groupby(findings, key=lambda finding: finding.kind)]
        lines = [f'{first}, and {len(more)} more' if more else str(first) for first, *more in by_kind]
        located = any(finding.kind != 'buffer' for finding in findings)  # the iteration itself has spoilt these
        lines += [] if located else [_NOT_FOUND]
        lines += [f'images: {", ".join(images)}'] if images else []
        ranks = all_gather_object((located, symptoms, [*lines, f'reproducer: {path}']))
        # Gradients are summed over the ranks: where one has found the cause, the others only show it.
        if not any(located for located, _, _ in ranks):
            ranks = [(bool(seen), seen, lines) for _, seen, lines in ranks]
        if ranks[get_rank()][0]:
            write_reproducer(path, self._facts(runner, outputs, symptoms, findings), batch)
        report = [f'Not finite in iteration {runner.iter + 1}, epoch {runner.epoch + 1}:']
        for rank, (concerned, seen, lines) in enumerate(ranks):
            if concerned:
                report += [f'rank {rank}: {"; ".join(seen)}', *(f'  {line}' for line in lines)]
        return '\n'.join([*report, _ADVICE])

    def _facts(self, runner: Runner, outputs: dict | None, symptoms: list[str], findings: list[Finding]) -> dict:
        wrappers = single_wrappers(runner.optim_wrapper)
        return {
            'iteration': runner.iter + 1,
            'epoch': runner.epoch + 1,
            'seed': runner.seed,
            'rank': get_rank(),
            'world_size': get_world_size(),
            'not_finite': symptoms,
            'findings': [asdict(each) for each in findings],
            'losses': losses(outputs),
            'rates': runner.optim_wrapper.get_lr(),
            'precision': [
                {
                    'wrapper': type(wrapper).__name__,
                    'autocast': getattr(wrapper, 'cast_dtype', None),
                    'loss_scale': wrapper.loss_scaler.get_scale() if hasattr(wrapper, 'loss_scaler') else None,
                }
                for wrapper in wrappers
            ],
        }

    def _stop(self, runner: Runner, report: str) -> None:
        self.after_train(runner)
        raise FloatingPointError(report)


def _gradients(optimizer: Optimizer) -> list[Tensor]:
    return [p.grad for group in optimizer.param_groups for p in group['params'] if p.grad is not None]


def _in_batch(batch: object) -> list[Finding]:
    """Findings in a batch, with the path of the image if the position is known."""
    images = list(samples(batch))
    inputs = batch.get('inputs') if isinstance(batch, Mapping) else None
    in_order = isinstance(inputs, (list, tuple, Tensor)) and len(inputs) == len(images)
    findings = []
    for finding in not_finite('batch', named_tensors(batch)):
        position = re.match(r'(?:inputs|data_samples)\.(\d+)', finding.name)
        path = images[int(position[1])].metainfo.get('img_path') if position and in_order else None
        findings.append(replace(finding, detail=f'{finding.detail}, of {path}') if path else finding)
    return findings
