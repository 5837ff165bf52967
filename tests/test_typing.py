"""The types of the public API, as mypy reads them in the code of a user (`py.typed`)."""

import os
import subprocess
import sys

import pytest
from helpers.tools import ROOT

pytest.importorskip('mypy', reason='it checks the types')
pytest.importorskip('mmengine', reason='the networks need it')


def test_the_public_api(tmp_path):
    command = [
        sys.executable,
        '-m',
        'mypy',
        '--follow-imports=silent',
        '--warn-unused-ignores',
        '--cache-dir',
        tmp_path,
    ]
    run = subprocess.run(
        [*command, ROOT / 'tests/data/typed_use.py'],
        cwd=tmp_path,
        env={**os.environ, 'MYPYPATH': str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stdout + run.stderr
