"""A work directory belongs to one run."""

import errno
import os
import resource
import signal
import subprocess
import sys

import pytest

from mmsparx.engine.work_dir import ExplainedDiskError, own_work_dir

CHILD = """
import os, sys, time
from mmsparx.engine.work_dir import own_work_dir
with own_work_dir(sys.argv[1]):
    if not os.fork():  # as a data worker: it outlives its parent
        time.sleep(60)
    print('mine', flush=True)
    time.sleep(60)
"""


@pytest.fixture
def other(tmp_path):
    """Another process that owns tmp_path / 'work'."""
    process = subprocess.Popen(
        [sys.executable, '-c', CHILD, tmp_path / 'work'], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout.readline() == 'mine\n'
    yield process
    os.killpg(process.pid, signal.SIGKILL)


def test_a_second_run_is_refused_until_the_first_one_ends(other, tmp_path):
    with (
        pytest.raises(
            RuntimeError, match=rf'in use by process {other.pid} on .*name another directory with --work-dir'
        ),
        own_work_dir(tmp_path / 'work'),
    ):
        raise AssertionError('not reached')
    other.kill()
    other.wait()
    with own_work_dir(tmp_path / 'work'):
        assert (tmp_path / 'work/.lock').read_text().startswith(f'process {os.getpid()} on ')


@pytest.mark.parametrize('variable', ['RANK', 'SLURM_PROCID', 'OMPI_COMM_WORLD_RANK'])
def test_the_first_process_of_a_run_takes_it_for_all(variable, other, tmp_path, monkeypatch):
    monkeypatch.setenv(variable, '1')
    with own_work_dir(tmp_path / 'work'):
        pass


def test_again_after_an_error(tmp_path):
    for _ in range(2):
        with pytest.raises(KeyError), own_work_dir(tmp_path):
            raise KeyError


@pytest.mark.parametrize('place', ['a file', 'a read-only folder'])
def test_folders_that_cannot_be_written_to(place, tmp_path):
    (tmp_path / 'file').touch()
    # Not even root can write to the second one, on Linux.
    path = {'a file': tmp_path / 'file', 'a read-only folder': '/sys/kernel'}[place]
    if place == 'a read-only folder' and sys.platform != 'linux':
        pytest.skip('needs a folder that root cannot write to')
    problem = 'the work directory cannot be written to; name another one with --work-dir'
    with pytest.raises(OSError, match=problem) as error, own_work_dir(path):
        raise AssertionError('not reached')
    assert error.value.filename == str(path)


@pytest.mark.parametrize('number', [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_says_how_to_go_on(tmp_path, number):
    said = r'a file of the run in .*work could not be written\. Make room there.*--resume'
    with pytest.raises(OSError, match=said), own_work_dir(tmp_path / 'work'):
        raise OSError(number, os.strerror(number), 'a log')
    for cause in (
        OSError(errno.EACCES, 'no right', 'a log'),
        ExplainedDiskError(number, 'go on from iter_2.pth'),
    ):
        with pytest.raises(OSError) as error, own_work_dir(tmp_path / 'work'):
            raise cause
        assert error.value is cause


def test_a_disk_that_is_full_before_the_first_log(tmp_path):
    """The lock is the first file of a run."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1, limits[1]))
    try:
        with pytest.raises(ExplainedDiskError, match='could not be written'), own_work_dir(tmp_path / 'work'):
            pass
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
