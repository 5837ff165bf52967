"""Finding the newest checkpoint of a run that is whole."""

import logging
import re
from collections.abc import Iterator
from pathlib import Path

from mmengine.config import Config
from mmengine.logging import print_log

from mmsparx.weights import UnreadableError, read_checkpoint


def whole_checkpoints(folder: str | Path) -> Iterator[Path]:
    """The checkpoints of a run that can be resumed, newest first; the others are named in the log and left out.

    They are the files `epoch_*.pth` and `iter_*.pth`: the best ones (`best_*.pth`) have no optimizer. A file is read to
    its end before it is given.
    """
    found = [(match, path) for path in Path(folder).glob('*.pth') if (match := _NAME.fullmatch(path.name))]
    # Epochs and iterations do not compare, times of writing do, unless the files have been copied.
    one_unit = len({match['unit'] for match, _ in found}) < 2
    found.sort(key=lambda pair: int(pair[0]['count']) if one_unit else _time_of_writing(pair[1]), reverse=True)
    for _, path in found:
        try:
            lacking = _lacking(read_checkpoint(path, tensors=False))
        except UnreadableError as error:
            print_log(f'passed over: {error}', logger='current', level=logging.WARNING)
            continue
        except ModuleNotFoundError as error:  # for a file of safetensors
            print_log(f'passed over: {path}: {error}', logger='current', level=logging.WARNING)
            continue
        if lacking:
            said = f'passed over: {path} is no checkpoint of a run: it lacks {", ".join(lacking)}'
            print_log(said, logger='current', level=logging.WARNING)
            continue
        yield path


def _time_of_writing(path: Path) -> int:
    """In nanoseconds; 0 for a file that is gone by now."""
    try:
        return path.lstat().st_mtime_ns
    except FileNotFoundError:
        return 0


def _lacking(checkpoint: dict) -> list[str]:
    """What a run needs to go on and a file does not hold."""
    lacking = [key for key in ('state_dict', 'meta', 'message_hub') if not isinstance(checkpoint.get(key), dict)]
    meta = checkpoint.get('meta')
    if isinstance(meta, dict):
        lacking += [f'meta.{key}' for key in ('epoch', 'iter') if type(meta.get(key)) is not int]
    return lacking


_NAME = re.compile(r'(?P<unit>epoch|iter)_(?P<count>\d+)\.pth')


def checkpoint_folder(cfg: Config) -> Path:
    """Where a config's run keeps its checkpoints: its work directory, or as `out_dir` of the hook says."""
    work_dir = Path(cfg.work_dir)
    out_dir = cfg.get('default_hooks', {}).get('checkpoint', {}).get('out_dir')
    return Path(out_dir, work_dir.name) if out_dir and out_dir != cfg.work_dir else work_dir


def resume_newest(cfg: Config) -> None:
    """Let a config resume from the newest whole checkpoint of its run, or start anew where there is none.

    mmengine would take the one that the file `last_checkpoint` names, whole or not.

    Raises:
        RuntimeError: there are checkpoints, and all of them are damaged.
    """
    folder = checkpoint_folder(cfg)
    newest = next(whole_checkpoints(folder), None)
    if newest is not None:
        cfg.resume, cfg.load_from = True, str(newest)
        return
    if any(_NAME.fullmatch(path.name) for path in folder.glob('*.pth')):
        raise RuntimeError(
            f'--resume: no checkpoint in {folder} is whole. Start anew in another --work-dir, or remove them'
        )
    cfg.resume = False
    print_log(f'--resume: no checkpoint in {folder} yet; the run starts anew', logger='current', level=logging.WARNING)
