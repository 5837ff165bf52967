"""Files that commands write: checked before the work is done, and never in an input's place."""

import os
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path


def check_writable(folder: str | os.PathLike, option: str) -> None:
    """Make a folder, and fail where no file can be written into it.

    Args:
        folder: Folder that results will go to.
        option: Command-line option that names it, for the message.

    Raises:
        OSError: The folder cannot be made, or holds no new files.
    """
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b'.')
    except OSError as error:
        problem = f'{error.strerror}: {option} cannot be written to; make room there, or name another place'
        raise OSError(error.errno, problem, str(folder)) from error


def check_empty(folder: str | os.PathLike, force: bool = False) -> None:
    """Fail where a folder that is to be filled holds files already.

    Args:
        folder: Folder that results will go to; it need not be there.
        force: Whether files in it may be written over.

    Raises:
        FileExistsError: It is no folder, or it is one that holds something, and `force` is not given.
    """
    if os.path.lexists(folder) and not os.path.isdir(folder):
        raise FileExistsError(f'{folder} exists already, and is not a folder; name another one')
    if not force and os.path.isdir(folder) and os.listdir(folder):
        raise FileExistsError(f'{folder} is not empty; name another folder, or overwrite its files with --force')


def check_outside(inner: str | os.PathLike, outer: str | os.PathLike, option: str) -> None:
    """Fail where a folder of results lies in a folder of inputs, or the other way round.

    Args:
        inner: Folder or file that has to lie elsewhere. Links are followed.
        outer: Folder or file that it must neither be nor lie in.
        option: Command-line option that names where results go, for the message.

    Raises:
        ValueError: It does.
    """
    if Path(inner).resolve().is_relative_to(Path(outer).resolve()):
        raise ValueError(
            f'{option}: {inner} lies in {outer}, where results would mix with images that are read. Name another folder'
        )


def check_results(results: Iterable[tuple[str | os.PathLike, str | os.PathLike]], option: str) -> None:
    """Fail where two results would have the same name, or a result would be written onto an input.

    Links are followed: a result whose name is a link to an input is one of these.

    Args:
        results: Pairs of an input and of the file that will be written for it.
        option: Command-line option that names where results go, for the message.

    Raises:
        ValueError: Either is the case; the message names the files.
    """
    results = list(results)
    inputs = {_identity(source): source for source, _ in results if os.path.exists(source)}
    taken: dict[str, str | os.PathLike] = {}
    for source, target in results:
        if os.path.exists(target) and (onto := inputs.get(_identity(target))) is not None:
            raise ValueError(f'{option}: {target} is the input {onto}, and would be overwritten. Name another folder')
        name = os.path.abspath(target)
        if name in taken:
            raise ValueError(
                f'{option}: the results of {taken[name]} and {source} would have the same name, {target}. Rename one '
                'of them, or run them separately'
            )
        taken[name] = source


def distinct_stems(names: Iterable[str]) -> Mapping[str, str]:
    """Distinct names for the results of each file, without a suffix.

    Args:
        names: Different names of files, with suffixes.

    Returns:
        By name, the name without its suffix; with it for those that would be the same without, such as `a.jpg` beside
        `a.png`.
    """
    stems = {name: str(Path(name).with_suffix('')) for name in names}
    while True:
        taken: dict[str, list[str]] = {}
        for name, stem in stems.items():
            taken.setdefault(stem, []).append(name)
        same = [name for group in taken.values() if len(group) > 1 for name in group]
        if not same:
            return stems
        stems.update((name, name) for name in same)


def _identity(path: str | os.PathLike) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino
