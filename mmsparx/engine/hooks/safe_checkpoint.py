"""Checkpoints that are whole at every moment."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from mmengine.hooks import CheckpointHook
from mmengine.runner import Runner

from mmsparx.engine.resume import whole_checkpoints
from mmsparx.registry import HOOKS
from mmsparx.weights import AtomicBackend


@HOOKS.register_module()
class SafeCheckpointHook(CheckpointHook):
    """mmengine's `CheckpointHook`, with a whole checkpoint on the disk at every moment.

    Files are written under a temporary name and renamed (see `AtomicBackend`), and the ones that they
    replace, beyond `max_keep_ckpts` or no longer the best, are removed afterwards and not before.

    Args:
        *args, **kwargs: as for `CheckpointHook`.
        backend_args: where checkpoints go; by default the local file system, written as above. Another
            backend writes and removes as mmengine does.

    Raises:
        OSError: when a checkpoint cannot be written; the message names the newest whole one.
    """

    def __init__(self, *args, backend_args: dict | None = None, **kwargs):
        if backend_args is None and kwargs.get('file_client_args') is None:
            backend_args = {'backend': 'atomic'}
        super().__init__(*args, backend_args=backend_args, **kwargs)

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
            mend = f'Make room, then go on from {newest} with --resume' if newest else 'Make room, and start again'
            raise OSError(error.errno, f'{error.strerror}: a checkpoint could not be written. {mend}') from error
        finally:
            del backend.remove
        for path, inode in outdated.items():
            if _inode(path) == inode:  # else what was written has the same name
                backend.remove(path)


def _inode(path: str) -> int:
    return os.stat(path).st_ino
