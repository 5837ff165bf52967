"""Run stages one after the other, end those that take too long, and report the outcome of each.

A stage is a list of commands. Its status is 'passed' only if its commands ran to their end, every test that ran has
passed, at least one has run, and every contender that a benchmark names has been measured.
"""

import contextlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
import zipfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benchmarks.report import Report, markdown

PASSED, FAILED, TIMED_OUT, NOT_RUN = 'passed', 'failed', 'timed out', 'not run'
GRACE = 5.0  # seconds for a process to write its traceback, and to be gone after SIGKILL
SHORTEST = 5.0  # seconds; with less left, no stage is started
JUNIT = 'junit.xml'
TAIL = 12  # lines of a failed command's log that are printed


@dataclass(frozen=True)
class Stage:
    """A part of a run.

    Attributes:
        name: Name of the stage, and of its folder in the archive.
        limit: Time limit in seconds.
        commands: Commands by name; {python}, {folder} (of the stage) and {name} in them are filled in.
        together: True if the commands run at the same time.
        remark: Parts that the stage leaves out, which are always reported.
        environment: Environment variables of its commands.
    """

    name: str
    limit: float
    commands: dict[str, str]
    together: bool = False
    remark: str = ''
    environment: dict[str, str] = field(default_factory=dict)


@dataclass
class Outcome:
    """The outcome of a stage.

    Attributes:
        stage: Name of the stage.
        status: Status, one of the four above.
        seconds: Time in seconds.
        limit: Time limit in seconds.
        remarks: Results and faults.
    """

    stage: str
    status: str
    seconds: float
    limit: float
    remarks: list[str]


class Run:
    """The stages of one call, with their results in one archive.

    Args:
        archive: Zip file with the logs and results of all stages so far, replaced as a whole after every stage.
        root: Folder in which the commands are run.
        limit: Time limit of all stages together, in seconds.
        title: Title of the summary.
    """

    def __init__(self, archive: Path, root: Path, limit: float, title: str):
        self.archive, self.root, self.title = archive, root, title
        self.end = time.monotonic() + limit
        self.outcomes: list[Outcome] = []

    def __call__(self, stages: Sequence[Stage]) -> bool:
        """Run the stages; returns whether all have passed."""
        self.archive.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            for i, stage in enumerate(stages):
                try:
                    self._stage(stage, Path(folder, stage.name))
                except BaseException:
                    for later in stages[i + 1 :]:
                        self._conclude(later, NOT_RUN, 0, 0, ['the run was ended before'])
                    self._pack(Path(folder))
                    raise
                self._pack(Path(folder))
        return all(outcome.status == PASSED for outcome in self.outcomes)

    @property
    def summary(self) -> str:
        """A table of all stages so far, as Markdown."""
        rows = [
            {
                'stage': outcome.stage,
                'status': outcome.status,
                'seconds': round(outcome.seconds),
                'limit': round(outcome.limit),
                'remark': '; '.join(outcome.remarks),
            }
            for outcome in self.outcomes
        ]
        return f'{self.title}\n\n{markdown(rows)}\n'

    def _stage(self, stage: Stage, folder: Path) -> None:
        limit = min(stage.limit, self.end - time.monotonic())
        if limit < SHORTEST:
            self._conclude(stage, NOT_RUN, 0, max(limit, 0), ['no time is left'])
            return
        start = time.monotonic()
        remarks, running, timed_out = [], [], False
        try:
            folder.mkdir()
            print(f'\n==> {stage.name}: {limit:.0f} s at most', flush=True)
            for group in [list(stage.commands)] if stage.together else [[name] for name in stage.commands]:
                running = []
                for name in group:
                    running.append((name, self._start(stage, name, folder)))
                for name, process in running:
                    left = start + limit - time.monotonic()
                    try:
                        code = process.wait(max(left, 0))
                    except subprocess.TimeoutExpired:
                        timed_out = True
                        remarks.append(f'{name}: ended after {limit:.0f} s{_stood(folder, name)}')
                        _end(process)
                    else:
                        if code:
                            remarks.append(f'{name}: exit status {code}{_stood(folder, name)}')
                            print('\n'.join(f'    {line}' for line in _lines(folder, name)[-TAIL:]), flush=True)
                if timed_out:
                    break
        except OSError as error:  # a program that is not there
            remarks.append(f'{type(error).__name__}: {error}')
        except BaseException:
            for _, process in running:
                _end(process)
            seconds = time.monotonic() - start
            self._conclude(stage, FAILED, seconds, limit, ['the run was ended meanwhile', *remarks])
            raise
        done, wrong = read_results(folder)
        if not remarks and not done and not wrong:
            done = ['ran to the end']
        status = TIMED_OUT if timed_out else FAILED if remarks or wrong or not done else PASSED
        said = [*filter(None, [stage.remark]), *done, *wrong, *remarks]
        self._conclude(stage, status, time.monotonic() - start, limit, said)

    def _start(self, stage: Stage, name: str, folder: Path) -> subprocess.Popen:
        words = shlex.split(stage.commands[name])
        argv = [word.format(python=sys.executable, folder=folder, name=name) for word in words]
        with (folder / f'{name}.log').open('w') as log:
            print(f'$ {shlex.join(argv)}', file=log, flush=True)
            return subprocess.Popen(
                argv,
                cwd=self.root,
                env=os.environ | stage.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # it is ended with its children
            )

    def _conclude(self, stage: Stage, status: str, seconds: float, limit: float, remarks: list[str]) -> None:
        self.outcomes.append(Outcome(stage.name, status, seconds, limit, remarks))
        print(f'==> {stage.name}: {status} after {seconds:.0f} s: {"; ".join(remarks)}', flush=True)

    def _pack(self, folder: Path) -> None:
        (folder / 'summary.md').write_text(self.summary)
        (folder / 'summary.json').write_text(
            json.dumps([asdict(outcome) for outcome in self.outcomes], indent=1) + '\n'
        )
        part = self.archive.with_name(self.archive.name + '.part')
        with zipfile.ZipFile(part, 'w', zipfile.ZIP_DEFLATED) as archive:
            for path in sorted(folder.rglob('*')):
                if path.is_file():
                    archive.write(path, path.relative_to(folder))
        part.replace(self.archive)


def _end(process: subprocess.Popen) -> None:
    """End a process and its children; Python's faulthandler writes their tracebacks to the log."""
    for number in (signal.SIGABRT, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):  # one that waits for the driver may outlive even SIGKILL
            process.wait(GRACE)


def _lines(folder: Path, name: str) -> list[str]:
    """The lines of a command's log, without the command."""
    return [line for line in (folder / f'{name}.log').read_text(errors='replace').splitlines()[1:] if line.strip()]


def _stood(folder: Path, name: str) -> str:
    """The progress of a process: the tests that have passed, and the last line of its log."""
    lines = _lines(folder, name)
    passed = sum(bool(re.search(r'\bPASSED\b', line)) for line in lines)  # of pytest -v
    said = f', {passed} tests had passed' if passed else ''
    return f'{said}, last line: {lines[-1].strip()[:300]}' if lines else ', its log is empty'


def read_results(folder: Path) -> tuple[list[str], list[str]]:
    """Read the results of a stage's benchmarks and tests: (results, faults), in sentences."""
    done, wrong = [], []
    for path in sorted(folder.rglob('*.json')):
        try:
            report = Report.load(path)
        except ValueError:  # another tool's
            continue
        timings = [item for comparison in report.comparisons for item in comparison.timings.items()]
        skipped = [f'{name}: {timing.skipped}' for name, timing in timings if timing.skipped is not None]
        if len(timings) > len(skipped):
            done.append(f'{path.stem}: {len(timings) - len(skipped)} rows measured')
        if skipped:
            wrong.append(f'{path.stem}: {len(skipped)} of {len(timings)} rows not measured ({skipped[0]})')
    for path in sorted(folder.rglob(JUNIT)):
        try:
            suite = next(ElementTree.parse(path).getroot().iter('testsuite'))
        except ElementTree.ParseError:  # pytest was ended while it wrote
            wrong.append(f'{JUNIT} is not complete')
            continue
        count = {key: int(suite.get(key, 0)) for key in ('tests', 'failures', 'errors', 'skipped')}
        bad = count['failures'] + count['errors']
        passed = count['tests'] - bad - count['skipped']
        if passed:
            done.append(f'{passed} tests passed, {count["skipped"]} skipped')
        if bad:
            first = next(case for case in suite if any(part.tag in ('failure', 'error') for part in case))
            wrong.append(f'{bad} tests failed (the first: {first.get("classname")}::{first.get("name")})')
        if not passed:
            wrong.append(f'no test passed, {count["skipped"]} skipped')
    return done, wrong
