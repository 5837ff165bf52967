"""Empty environments to run printed commands in, without a network."""

import importlib.metadata
import io
import os
import re
import subprocess
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest


class FreshEnvironment:
    """A virtual environment with a `pip` of its own that installs from a folder alone.

    Args:
        folder: Folder to make it in.
        index: Folder of distributions, in place of an index.
        beside: Further folders of packages that it sees, such as that of torch.
    """

    def __init__(self, folder: Path, index: Path, *beside: Path):
        # Importing pip would give setuptools, imported later in this process, the distutils of the standard library.
        pip = _distribution('pip').locate_file('pip')
        venv.create(folder, with_pip=False)
        (self.site,) = folder.glob('lib/python*/site-packages')
        (self.site / 'beside.pth').write_text(''.join(f'{path}\n' for path in beside))
        (folder / 'pip').mkdir()
        (folder / 'pip' / 'pip').symlink_to(pip)
        self.bin = folder / 'bin'
        script = self.bin / 'pip'
        script.write_text(f'#!/bin/sh\nPYTHONPATH="{folder}/pip" exec "{self.bin}/python" -m pip "$@"\n')
        script.chmod(0o755)
        clean = {
            name: value for name, value in os.environ.items() if not name.startswith(('PYTHON', 'PIP_', 'MMSPARX'))
        }
        path = f'{self.bin}{os.pathsep}{os.environ["PATH"]}'
        settings = dict(PIP_NO_INDEX='1', PIP_FIND_LINKS=str(index), PIP_DISABLE_PIP_VERSION_CHECK='1')
        self.variables = clean | settings | {'PATH': path}

    def run(self, command: str, cwd: Path | None = None, **variables: str) -> subprocess.CompletedProcess:
        """Run a line of a shell."""
        environment = self.variables | variables
        return subprocess.run(command, shell=True, cwd=cwd or self.bin, env=environment, capture_output=True, text=True)

    def installed(self) -> set[str]:
        """Names of the distributions in it."""
        return {each.name for each in importlib.metadata.distributions(path=[str(self.site)])}


def stub_wheel(index: Path, name: str, version: str) -> None:
    """A wheel that installs nothing but its metadata."""
    stem = f'{re.sub("-", "_", name)}-{version}'
    files = {
        'METADATA': f'Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n',
        'WHEEL': 'Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n',
        'RECORD': '',
    }
    with zipfile.ZipFile(index / f'{stem}-py3-none-any.whl', 'w') as wheel:
        for file, text in files.items():
            wheel.writestr(f'{stem}.dist-info/{file}', text)


def stub_sdist(index: Path, name: str, version: str) -> None:
    """A source distribution without a module, for setuptools."""
    stem = f'{re.sub("-", "_", name)}-{version}'
    texts = {
        'setup.py': f'from setuptools import setup\nsetup(name={name!r}, version={version!r}, py_modules=[])\n',
        'PKG-INFO': f'Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n',
    }
    with tarfile.open(index / f'{stem}.tar.gz', 'w:gz') as archive:
        for file, text in texts.items():
            member = tarfile.TarInfo(f'{stem}/{file}')
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))


def installed_wheel(index: Path, name: str) -> None:
    """A wheel of a pure Python distribution that is installed in the environment of the tests."""
    found = _distribution(name)
    with zipfile.ZipFile(index / f'{name}-{found.version}-py3-none-any.whl', 'w') as wheel:
        for path in found.files or []:
            if path.parts[0] != '..' and '__pycache__' not in path.parts:
                wheel.write(path.locate(), path)


def _distribution(name: str) -> importlib.metadata.Distribution:
    try:
        return importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f'needs {name}, to build with')


def site_packages() -> Path:
    """The folder of the packages that the tests run with."""
    return Path(importlib.metadata.distribution('torch').locate_file('')).resolve()
