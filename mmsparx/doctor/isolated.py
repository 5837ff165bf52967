"""Imports and calls in another process, which they may end: an undefined symbol, a crash, an endless wait."""

import json
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Iterable
from importlib import import_module

TIME_LIMIT = 300  # seconds for all that one process does; importing torch from a cold disk takes a minute
_CHILD = 'from mmsparx.doctor.isolated import main; main()'


def run(calls: Iterable[str]) -> dict[str, tuple[object, str | None]]:
    """Make calls one after the other; where one ends the process, a fresh one goes on with the next.

    Args:
        calls: 'package.module', which is imported, or 'package.module:function argument ...', which is
            called with these strings and returns what JSON can hold.

    Returns:
        Per call, (what it returned, None), or (None, why it did not return).
    """
    outcomes, pending = {}, list(calls)
    while pending:
        try:
            command = [sys.executable, '-c', _CHILD, *pending]
            done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=TIME_LIMIT)
            output, cause = done.stdout, _cause(done)
        except subprocess.TimeoutExpired as expired:
            output, cause = expired.stdout or b'', f'no answer within {TIME_LIMIT} s'
        for line in output.splitlines():
            outcomes[pending.pop(0)] = (json.loads(line), None)
        if pending:
            outcomes[pending.pop(0)] = (None, cause)
    return outcomes


def _cause(done: subprocess.CompletedProcess) -> str:
    if done.returncode < 0:
        return f'the process was ended by {signal.Signals(-done.returncode).name}'
    lines = done.stderr.decode(errors='replace').split('\n')
    return next((line.strip() for line in reversed(lines) if line.strip()), f'exit status {done.returncode}')


def main() -> None:
    """The other process: a line of JSON for every call that returned."""
    results = os.fdopen(os.dup(1), 'w')
    os.dup2(2, 1)  # some packages print when they are imported
    for call in sys.argv[1:]:
        name, *arguments = call.split()
        name, _, function = name.partition(':')
        try:
            module = import_module(name)
            result = getattr(module, function)(*arguments) if function else None
        except Exception as error:  # a broken package may raise anything; the last line is reported
            sys.exit(_in_one_line(error))
        results.write(json.dumps(result) + '\n')
        results.flush()


def _in_one_line(error: Exception) -> str:
    text = ' '.join(f'{type(error).__name__}: {error}'.split())
    if isinstance(error, (ImportError, ArithmeticError)):  # their messages are clear without the type
        return text
    frames = [frame.f_globals.get('__name__') for frame, _ in traceback.walk_tb(error.__traceback__)]
    return f'{text} (in {frames[-1]})'
