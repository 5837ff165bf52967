"""A work directory for one run alone."""

import errno
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from mmengine.logging import print_log

from mmsparx.engine.common import is_first_process

try:
    import fcntl
except ImportError:  # Windows: runs are not kept apart there
    fcntl = None


# The disk or a quota is full, or a file would be too large.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class ExplainedDiskError(OSError):
    """A fault of the disk whose message says how to go on."""


@contextmanager
def full_disk_explained(path: str | os.PathLike) -> Iterator[None]:
    """Explain in errors of a full disk how to continue.

    Args:
        path: Work directory of the run.

    Raises:
        ExplainedDiskError: A file could not be written.
    """
    try:
        yield
    except ExplainedDiskError:
        raise
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise ExplainedDiskError(
            error.errno,
            f'{error.strerror}: a file of the run in {path} could not be written. Make room there, or name another '
            'place with --work-dir. A training run goes on from its newest checkpoint with --resume',
            error.filename,
        ) from error


@contextmanager
def own_work_dir(path: str | os.PathLike) -> Iterator[None]:
    """Make a work directory, and keep other runs out of it for as long as this block lasts.

    The lock is the process's and ends with it, however that ends. Of a distributed run the first
    process takes it. Where the file system has no locks, a warning says so.

    Raises:
        OSError: the directory cannot be made or written to.
        RuntimeError: another run uses it.
    """
    with full_disk_explained(path), _locked(path):
        yield


@contextmanager
def _locked(path: str | os.PathLike) -> Iterator[None]:
    if not is_first_process():
        yield
        return
    with _open_lock(path) as file:
        try:
            if fcntl is not None:
                # Data workers would inherit flock's lock, and hold on to it after a kill.
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            file.seek(0)
            other = file.read().strip() or 'another run'
            raise RuntimeError(
                f"the work directory {path} is in use by {other}, and two runs would overwrite each other's "
                'checkpoints. Wait for it, or name another directory with --work-dir'
            ) from error
        except OSError as error:
            print_log(f'{path} cannot be locked ({error.strerror}): start no second run there', level=logging.WARNING)
        file.truncate(0)
        file.write(f'process {os.getpid()} on {socket.gethostname()}')
        file.flush()
        yield


def _open_lock(path: str | os.PathLike) -> TextIO:
    try:
        os.makedirs(path, exist_ok=True)
        return open(Path(path, '.lock'), 'a+')
    except OSError as error:
        problem = f'{error.strerror}: the work directory cannot be written to; name another one with --work-dir'
        raise OSError(error.errno, problem, str(path)) from error
