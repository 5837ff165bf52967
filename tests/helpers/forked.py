"""Processes of their own that start in milliseconds: forks of one that has imported libraries, and run nothing."""

import multiprocessing
import os
import sys
from collections.abc import Callable
from pathlib import Path

# What takes most of the time of a start. Not mmsparx: whether code imports what it needs of it is to be seen.
IMPORTED = ['torch', 'mmengine.runner', 'mmdet.models']


def run_forked(function: Callable[..., object], *arguments: object, log: Path) -> tuple[int, str]:
    """Run a function in a process of its own.

    Args:
        function: Function of a module, which the process imports.
        arguments: Arguments of the function, which are pickled.
        log: File for what the process writes to stdout and stderr.

    Returns:
        The exit status, or minus the signal that ended it; and what it wrote.
    """
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(IMPORTED)
    process = context.Process(target=_run, args=(dict(os.environ), log, function, *arguments))
    process.start()
    process.join()
    return process.exitcode, log.read_text()


def run_code(code: str, folder: Path, log: Path) -> tuple[int, str]:
    """Run code in a folder, as `python -c` does."""
    return run_forked(_execute, code, folder, log=log)


def _run(environment: dict[str, str], log: Path, function: Callable[..., object], *arguments: object) -> None:
    os.environ.clear()  # what it was when the first such process started
    os.environ.update(environment)
    with log.open('w') as file:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(file.fileno(), stream.fileno())
    function(*arguments)


def _execute(code: str, folder: Path) -> None:
    os.chdir(folder)
    sys.path.insert(0, '')
    exec(code, {'__name__': '__main__'})
