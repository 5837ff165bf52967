"""The location of a network's files: a folder, or a repository of the Hugging Face Hub."""

import os
import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType

from mmsparx.version import __version__

CONFIG = 'config.json'
CARD = 'README.md'
WEIGHTS = 'model.safetensors'
# Names of files of weights. The first that is there is read; timm writes the second one by default.
_WEIGHTS = (WEIGHTS, 'pytorch_model.bin')
_REPOSITORY = re.compile(r'\w[\w.-]*(/\w[\w.-]*)?')


@dataclass(frozen=True)
class Files:
    """The files of a network.

    Attributes:
        source: Requested repository or folder, for messages.
        config: The file with the arguments.
        weights: The file with the weights.
    """

    source: str
    config: Path
    weights: Path


def hub_package(purpose: str) -> ModuleType:
    """The package huggingface_hub.

    Args:
        purpose: Purpose of the package, as the subject of the message.

    Raises:
        ModuleNotFoundError: It is not installed; the message names the extra.
    """
    try:
        import huggingface_hub
    except ModuleNotFoundError as error:
        if error.name != 'huggingface_hub':
            raise
        raise ModuleNotFoundError(
            f"{purpose} needs huggingface_hub, which is not installed: pip install 'mmsparx[hub]'", name=error.name
        ) from error
    return huggingface_hub


def find_files(source: str | os.PathLike, **download) -> Files:
    """The files of a folder, or of a repository, which are downloaded unless the cache has them.

    Args:
        source: A folder, or the id of a repository, as 'owner/name'.
        **download: Options of `huggingface_hub.hf_hub_download`.

    Raises:
        FileNotFoundError: The folder lacks a file.
        ValueError: There is no such folder, and the name is not that of a repository.
        ModuleNotFoundError: huggingface_hub is needed and not installed.
        OSError: A repository or file is not available; the errors of huggingface_hub.
    """
    folder = Path(source).expanduser()
    if folder.is_dir():
        return Files(str(source), _in_folder(folder, (CONFIG,)), _in_folder(folder, _WEIGHTS))
    name = os.fspath(source)
    if folder.exists() or not _REPOSITORY.fullmatch(name):
        kind = 'a file' if folder.exists() else 'no folder'
        raise ValueError(
            f"expected a folder with {CONFIG} and {WEIGHTS}, or the id of a repository as 'owner/name', got {name!r}, "
            f'which is {kind}'
        )
    package = hub_package(f'reading {name!r}, which is no folder here, from the Hugging Face Hub')
    get = partial(package.hf_hub_download, name, library_name='mmsparx', library_version=__version__, **download)
    return Files(name, Path(get(CONFIG)), _download_weights(package, get))


def _in_folder(folder: Path, names: tuple[str, ...]) -> Path:
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise FileNotFoundError(
        f'{folder}: expected {" or ".join(names)} in the folder, as save_pretrained writes it, found none'
    )


def _download_weights(package: ModuleType, get: partial) -> Path:
    first, second = _WEIGHTS
    try:
        return Path(get(first))
    except package.utils.EntryNotFoundError as error:
        try:
            return Path(get(second))
        except package.utils.EntryNotFoundError:
            raise error from None
