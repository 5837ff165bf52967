"""Files that are whole or not there."""

import os
from pathlib import Path

from mmengine.fileio import LocalBackend, register_backend

_PART = '.part'


class AtomicBackend(LocalBackend):
    """Local files that appear under their name when all of them is on the disk, and not before.

    They are written beside it under a name of their own (`.name.part`) and renamed. A run that is
    killed in between leaves that file, which the next one writes over.
    """

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write bytes; creates the folder. What was under the name stays there until they are written."""
        path = Path(filepath)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f'.{path.name}{_PART}')
        try:
            with open(part, 'wb') as file:
                file.write(obj)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, path)
        except OSError:
            part.unlink(missing_ok=True)  # a full disk has better use for it
            raise
        if os.name == 'posix':  # the new name must be on the disk before an older file is removed
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

    def put_text(self, obj: str, filepath: str | Path, encoding: str = 'utf-8') -> None:
        """Write text, likewise."""
        self.put(obj.encode(encoding), filepath)


register_backend('atomic', AtomicBackend, force=True)
