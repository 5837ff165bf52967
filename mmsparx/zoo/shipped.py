"""Search, description and copies of the configs that come with the package."""

import difflib
from dataclasses import dataclass
from pathlib import Path

from mmsparx.version import __version__

PACKAGE = Path(__file__).parents[1]


@dataclass(frozen=True)
class ShippedConfig:
    """A config that is meant to be run.

    Attributes:
        path: File of the config.
        task: Folder of configs/ that it is in, such as 'detection'.
    """

    path: Path
    task: str

    @property
    def name(self) -> str:
        """Its unique name in the commands."""
        return self.path.stem


def configs_folder() -> Path:
    """The folder of the configs: in the installed package, or beside the package in the repository.

    Raises:
        FileNotFoundError: in neither place.
    """
    folders = [PACKAGE / '.mim' / 'configs', PACKAGE.parent / 'configs']
    for folder in folders:
        if folder.is_dir():
            return folder
    places = ' or '.join(map(str, folders))
    raise FileNotFoundError(f'the configs of mmsparx should be in {places}, but are not; install the package again')


def list_configs(task: str | None = None) -> list[ShippedConfig]:
    """All configs that are meant to be run, or those of a task; by task, then by name.

    Raises:
        ValueError: no such task.
    """
    folder = configs_folder()
    tasks = sorted(path.name for path in folder.iterdir() if path.is_dir() and path.name != '_base_')
    if task is not None and task not in tasks:
        raise ValueError(f'unknown task {task!r}; expected one of {", ".join(tasks)}')
    return [
        ShippedConfig(path, name)
        for name in ([task] if task else tasks)
        for path in sorted((folder / name).rglob('*.py'), key=lambda path: path.stem)
        if '_base_' not in path.relative_to(folder).parts
    ]


def find_config(name: str | Path) -> Path:
    """The file of a shipped config.

    Args:
        name: Name of the config, with or without '.py' and folders, such as 'detection/mask_rcnn_sparx_t_1x'.

    Raises:
        ValueError: no config of that name; the message lists those with the nearest names.
    """
    wanted = Path(name).as_posix().removesuffix('.py')
    configs = list_configs()
    for config in configs:
        if f'/{config.path.with_suffix("").as_posix()}'.endswith(f'/{wanted}'):
            return config.path
    nearest = difflib.get_close_matches(Path(wanted).name, [config.name for config in configs])
    hint = f'nearest: {", ".join(nearest)}; ' if nearest else ''
    raise ValueError(f"no config {str(name)!r} in mmsparx; {hint}'mmsparx configs' lists all")


def resolve_config(given: str | Path) -> Path:
    """The given config file; if there is none, the shipped config of that name.

    Raises:
        ValueError: neither.
    """
    path = Path(given)
    if path.is_file():
        return path
    try:
        return find_config(given)
    except ValueError as error:
        raise ValueError(f'no config file {str(given)!r} in {Path.cwd()}, and {error}') from None


def export_config(name: str | Path, target: str | Path | None = None, force: bool = False) -> Path:
    """Write a shipped config as one file without bases, which runs wherever the package is installed.

    Paths in it, such as `data_root`, stay as they are: relative to the folder that it is run in.

    Args:
        name: Name as for `find_config`.
        target: File to write, or folder; by default the config's name in the current folder.
        force: True to overwrite an existing file.

    Returns:
        The file that was written.

    Raises:
        ValueError: an unknown name, or a target that is no .py file or the shipped config itself.
        FileExistsError: the file is there, and `force` was not given.
    """
    source = find_config(name)
    target = Path(target or '.')
    if target.is_dir():
        target = target / source.name
    if target.suffix != '.py':
        raise ValueError(f'expected a folder or the name of a .py file to write to, got {str(target)!r}')
    if target.exists() and not force:
        raise FileExistsError(f'{target} exists already; name another file, or overwrite it with --force')
    if target.exists() and target.samefile(source):
        raise ValueError(f'{target} is the shipped config, and is not overwritten; name another file')
    from mmengine.config import Config

    text = Config.fromfile(source, import_custom_modules=False).pretty_text
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(f'# {source.name} of mmsparx {__version__}, flattened.\n{text}', encoding='utf-8')
    return target


def read_models(task: str) -> dict[str, dict]:
    """Entries of a task's metafile for its models, by the names of their configs; {} if it has none."""
    return {Path(model['Config']).stem: model for model in _read_metafile(task).get('Models', ())}


def read_collections(task: str) -> dict[str, dict]:
    """Entries of a task's metafile for its collections, such as their paper, by name; {} if it has none."""
    return {collection['Name']: collection for collection in _read_metafile(task).get('Collections', ())}


def _read_metafile(task: str) -> dict:
    path = configs_folder() / task / 'metafile.yml'
    if not path.is_file():
        return {}
    from mmengine.fileio import load

    return load(path)
