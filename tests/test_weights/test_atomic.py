"""Files are whole or absent, whatever happens while they are written."""

import errno
import os
import resource

import pytest
from mmengine.fileio import get_file_backend

from mmsparx.weights import AtomicBackend


def test_by_mmengines_name():
    assert isinstance(get_file_backend(backend_args={'backend': 'atomic'}), AtomicBackend)


def test_writes_in_new_folders(tmp_path):
    AtomicBackend().put(b'123', tmp_path / 'a/b.bin')
    AtomicBackend().put_text('é', str(tmp_path / 'a/b.txt'))
    assert sorted(path.name for path in (tmp_path / 'a').iterdir()) == ['b.bin', 'b.txt']
    assert (tmp_path / 'a/b.bin').read_bytes() == b'123'
    assert (tmp_path / 'a/b.txt').read_text('utf-8') == 'é'


@pytest.mark.parametrize('fault', ['disk full', 'not synchronised', 'not renamed'])
def test_a_failed_write_leaves_the_old_file(fault, tmp_path, monkeypatch):
    AtomicBackend().put(b'old', tmp_path / 'x')

    def fail(*_):
        raise OSError(errno.ENOSPC, 'No space left on device')

    if fault == 'disk full':
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    else:
        monkeypatch.setattr(os, {'not synchronised': 'fsync', 'not renamed': 'replace'}[fault], fail)
    try:
        with pytest.raises(OSError, match=r'File too large|No space left'):
            AtomicBackend().put(b'new' * 1000, tmp_path / 'x')
    finally:
        if fault == 'disk full':
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in tmp_path.iterdir()] == ['x']
    assert (tmp_path / 'x').read_bytes() == b'old'
