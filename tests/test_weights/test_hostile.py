"""Hostile files, by every way in: none is executed, crashes, hangs or takes all memory; each gets a sentence."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.hostile import write_all

TESTS = Path(__file__).parents[1]
# Whole checkpoints, of which a config's text is taken out, and files without anything hostile.
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


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    pytest.importorskip('timm', reason='its loaders are among the ways')
    return write_all(tmp_path_factory.mktemp('hostile') / 'files')


def outcomes(files: list[Path], *ways: str) -> list[dict]:
    """Of each file by each way; see `helpers.hostile_ways`."""
    folder = files[0].parent
    out = folder.with_name('outcomes.json')
    command = [sys.executable, '-W', 'ignore', '-m', 'helpers.hostile_ways', str(folder), str(out), *ways]
    done = subprocess.run(command, cwd=TESTS, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(out.read_text())
    out.unlink()
    return found


def assert_harmless(found: list[dict]) -> None:
    for outcome in found:
        file, message = outcome['file'], outcome['message']
        assert outcome['ended'] in ('refused', 'loaded'), outcome
        if outcome['ended'] == 'loaded':
            assert file in HARMLESS, outcome
        elif file not in HARMLESS:  # these may end in mmengine, which misses what they do not hold
            assert 'Traceback' not in message, message
            assert 'weights_only' not in message
            assert len(message) < 2000
            assert '\x1b' not in message


def test_every_file(files):
    assert len(files) >= 200
    found = outcomes(files, 'mmengine', 'load_pretrained')
    assert len(found) == 2 * len(files)
    assert_harmless(found)


def test_every_way(files, tmp_path):
    """Of every fifth file, sorted by name, which are of all kinds."""
    chosen = sorted(files)[::5]
    assert len(chosen) >= 40
    (tmp_path / 'some').mkdir()
    for path in chosen:
        path.rename(tmp_path / 'some' / path.name)
    found = outcomes([tmp_path / 'some' / path.name for path in chosen])
    assert_harmless(found)
    ways = {outcome['way'] for outcome in found}
    assert len(found) == len(ways) * len(chosen)
    assert len(ways) >= 16  # and the inferencers of the libraries that are installed
