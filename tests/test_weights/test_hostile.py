"""Hostile files in every loader: none is executed, crashes, hangs or takes all memory; each gets a message."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.hostile import write_all

TESTS = Path(__file__).parents[1]
# Whole checkpoints, whose config is removed, and files without hostile contents.
HARMLESS = {
    'config_as_bytes.pth',
    'config_at_the_top.pth',
    'config_in_an_object.pth',
    'config_in_both.pth',
    'config_in_meta.pth',
    'config_in_ordered_dicts.pth',
    'config_in_the_hub.pth',
    'flat.pth',
}
# Starts of the messages of loaders that do not end with the reader's error.
OTHER_ERRORS = {
    'resume_newest': 'RuntimeError: --resume: no checkpoint in ',
    'rewind': 'RuntimeError: there is none',
}


@pytest.fixture(scope='module')
def outcomes(tmp_path_factory):
    """Outcomes of all files in three loaders, and of every eighth in the others; see `helpers.hostile_ways`."""
    pytest.importorskip('timm', reason='its loaders are among the ways')
    folder = tmp_path_factory.mktemp('hostile')
    assert len(write_all(folder / 'files')) >= 200
    command = [sys.executable, '-W', 'ignore', '-m', 'helpers.hostile_ways', folder / 'files', folder / 'out.json']
    command += ['--all-files', 'unsafe', 'mmengine', 'load_pretrained', '--step', '8']
    # The variable that the tools set would make `unsafe` safe, and the other loaders easier.
    environment = {name: value for name, value in os.environ.items() if name != 'TORCH_FORCE_WEIGHTS_ONLY_LOAD'}
    done = subprocess.run(command, cwd=TESTS, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((folder / 'out.json').read_text())


def test_they_run_in_an_unsafe_loader(outcomes):
    """pickle runs their code, so the files are hostile, and the test detects it."""
    ended = [outcome['ended'] for outcome in outcomes if outcome['way'] == 'unsafe']
    assert ended.count('executed') >= 20
    assert 'killed' in ended  # by the limit of memory or time


def test_no_safe_loader_runs_them(outcomes):
    found = [outcome for outcome in outcomes if outcome['way'] != 'unsafe']
    for outcome in found:
        file, message = outcome['file'], outcome['message']
        assert outcome['ended'] in ('refused', 'loaded'), outcome
        if outcome['ended'] == 'loaded':
            assert file in HARMLESS, outcome
        elif file not in HARMLESS:  # these may end in mmengine, which misses entries
            begins = OTHER_ERRORS.get(outcome['way'], ('UnreadableError: ', 'MissingError: '))
            assert message.startswith(begins), outcome
            assert 'weights_only' not in message
            assert len(message) < 2000
            assert '\x1b' not in message
    files = {outcome['file'] for outcome in found}
    assert {outcome['file'] for outcome in found if outcome['way'] == 'mmengine'} == files
    assert len({outcome['way'] for outcome in found}) >= 16  # and the inferencers of installed libraries
