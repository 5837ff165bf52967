"""Separate processes that start in milliseconds: forks of a server that has imported the libraries and run nothing."""

import multiprocessing
import os
import sys
from collections.abc import Callable
from pathlib import Path

# These imports take most of the time of a start. mmsparx is not among them: tests check what it imports by itself.
IMPORTED = ['torch', 'mmengine.runner', 'mmdet.models']


def run_forked(function: Callable[..., object], *arguments: object, log: Path) -> tuple[int, str]:
    """Run a function in a separate process.

    Args:
        function: Function at the top level of a module, which the process imports.
        arguments: Arguments of the function, which are pickled.
        log: File that receives stdout and stderr of the process.

    Returns:
        The exit status, or minus the signal that ended the process, and the text of `log`.
    """
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(IMPORTED)
    process = context.Process(target=_run, args=(dict(os.environ), log, function, *arguments))
    process.start()
    process.join()
    return process.exitcode, log.read_text()


def run_code(code: str, folder: Path, log: Path) -> tuple[int, str]:
    """Run code in a folder like `python -c`."""
    return run_forked(_execute, code, folder, log=log)


def _run(environment: dict[str, str], log: Path, function: Callable[..., object], *arguments: object) -> None:
    os.environ.clear()  # the environment is that of the server
    os.environ.update(environment)
    with log.open('w') as file:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(file.fileno(), stream.fileno())
    function(*arguments)


def _execute(code: str, folder: Path) -> None:
    os.chdir(folder)
    sys.path.insert(0, '')
    exec(code, {'__name__': '__main__'})
