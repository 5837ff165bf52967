"""Checkpoints that are whole at every moment."""

import difflib
import inspect
import os
from collections.abc import Iterator
from contextlib import contextmanager

from mmengine.hooks import CheckpointHook
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch import Tensor

from mmsparx.engine.nan_guard.diagnose import Finding, not_finite, not_finite_weights
from mmsparx.engine.nan_guard.rewind import single_wrappers
from mmsparx.engine.resume import whole_checkpoints
from mmsparx.engine.work_dir import FULL, ExplainedDiskError
from mmsparx.registry import HOOKS
from mmsparx.weights import AtomicBackend
from mmsparx.weights.loading import unwrapped


@HOOKS.register_module()
class SafeCheckpointHook(CheckpointHook):
    """mmengine's `CheckpointHook`, with a whole checkpoint on the disk at every moment.

    Files are written under a temporary name and renamed (see `AtomicBackend`), and the ones that they
    replace, beyond `max_keep_ckpts` or no longer the best, are removed afterwards and not before. What is
    not finite is not written: neither weights nor what the optimizer keeps of each of them.

    A run that was killed may not have validated the checkpoint that it is resumed from, or not have noted the
    result. With `save_best` that validation is repeated at the start, so that the best checkpoint is that of an
    uninterrupted run.

    Args:
        *args: Arguments of `CheckpointHook`.
        **kwargs: Options of `CheckpointHook`.
        backend_args: Backend for checkpoints; by default the local file system, written as above. Another
            backend writes and removes as mmengine does.

    Raises:
        TypeError: an argument is neither the hook's nor that of the runner's `save_checkpoint`.
        OSError: when a checkpoint cannot be written; the message names the newest whole one.
        FloatingPointError: a weight, or what the optimizer keeps of one, is not finite; the message names it, and
            the newest whole checkpoint.
    """

    def __init__(self, *args, backend_args: dict | None = None, **kwargs):
        if backend_args is None and kwargs.get('file_client_args') is None:
            backend_args = {'backend': 'atomic'}
        super().__init__(*args, backend_args=backend_args, **kwargs)
        # mmengine hands what is left to `save_checkpoint`, at the first save.
        known = {*inspect.signature(CheckpointHook).parameters, *inspect.signature(Runner.save_checkpoint).parameters}
        for name in set(self.args) - known:
            near = difflib.get_close_matches(name, sorted(known), n=1)
            advice = f'did you mean {near[0]!r}?' if near else f'expected one of {", ".join(sorted(known))}'
            raise TypeError(f'{type(self).__name__} takes no {name!r}; {advice}')

    def before_train(self, runner: Runner) -> None:
        super().before_train(runner)
        if runner._resume and self.save_best and _validation_is_due(runner):
            runner.logger.info('save_best: the validation of the checkpoint that was resumed from is repeated')
            runner.val_loop.run()

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        found = next(_not_finite(runner, checkpoint), None)
        if found is None:
            return
        newest = next(whole_checkpoints(self.out_dir), None)
        advice = f'Go on from {newest} with --resume and a lower learning rate' if newest else 'Start again'
        raise FloatingPointError(
            f'the checkpoint is not written, since it is not finite: {found}. {advice}, or with '
            'optim_wrapper.clip_grad=dict(max_norm=...)'
        )

    def _save_checkpoint(self, runner: Runner) -> None:
        with self._writing_before_removing():
            super()._save_checkpoint(runner)

    def _save_best_checkpoint(self, runner: Runner, metrics: dict) -> None:
        with self._writing_before_removing():
            super()._save_best_checkpoint(runner, metrics)

    @contextmanager
    def _writing_before_removing(self) -> Iterator[None]:
        """Put off the removals that the parent asks for until it has written."""
        backend = self.file_backend
        if not isinstance(backend, AtomicBackend):
            yield
            return
        outdated: dict[str, int] = {}
        backend.remove = lambda path: outdated.update({path: _inode(path)})
        try:
            yield
        except OSError as error:
            newest = next(whole_checkpoints(self.out_dir), None)
            cause = 'Make room, then' if error.errno in FULL else 'Fix that, then'
            advice = f'{cause} go on from {newest} with --resume' if newest else f'{cause} start again'
            said = f'{error.strerror}: a checkpoint could not be written. {advice}'
            raise ExplainedDiskError(error.errno, said) from error
        finally:
            del backend.remove
        for path, inode in outdated.items():
            if _inode(path) == inode:  # else what was written has the same name
                backend.remove(path)


def _validation_is_due(runner: Runner) -> bool:
    """Whether an uninterrupted run validates where this one stands."""
    loop = runner.train_loop
    loop._decide_current_val_interval()
    by_epoch = isinstance(loop, EpochBasedTrainLoop)
    done, last = (loop.epoch, loop.max_epochs) if by_epoch else (loop.iter, loop.max_iters)
    return (
        runner.val_loop is not None
        and done >= max(loop.val_begin, 1)
        and (done % loop.val_interval == 0 or done == last)
    )


def _not_finite(runner: Runner, checkpoint: dict) -> Iterator[Finding]:
    """Values of a checkpoint that are not finite, in both copies of the weights and in the optimizers' states."""
    model = unwrapped(runner.model)
    for key in ('state_dict', 'ema_state_dict'):
        yield from not_finite_weights(checkpoint.get(key, {}), model)
    names = {parameter: name for name, parameter in model.named_parameters()}
    for wrapper in single_wrappers(runner.optim_wrapper):
        for parameter, state in wrapper.optimizer.state.items():
            name = names.get(parameter, 'a parameter')
            kept = {f'{key} of {name}': x for key, x in state.items() if isinstance(x, Tensor)}
            yield from not_finite('state of the optimizer', kept.items())


def _inode(path: str) -> int:
    return os.stat(path).st_ino
