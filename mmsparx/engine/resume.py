"""Checkpoints that a run can go on from: the newest whole one, or the one that is named."""

import logging
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.runner import CheckpointLoader

from mmsparx.engine.common import is_of_kind
from mmsparx.weights import UnreadableError, read_checkpoint


def whole_checkpoints(folder: str | Path, cfg: Mapping | None = None) -> Iterator[Path]:
    """The checkpoints of a run that can be resumed, newest first; the others are named in the log and left out.

    They are the files `epoch_*.pth` and `iter_*.pth`: the best ones (`best_*.pth`) have no optimizer. A file is read to
    its end before it is given.

    Args:
        folder: Folder of the checkpoints.
        cfg: Config of the run that will go on; a checkpoint that lacks what that run needs is left out.
    """
    found = [(match, path) for path in Path(folder).glob('*.pth') if (match := _NAME.fullmatch(path.name))]
    # Epochs and iterations do not compare, times of writing do, unless the files have been copied.
    one_unit = len({match['unit'] for match, _ in found}) < 2
    found.sort(key=lambda pair: int(pair[0]['count']) if one_unit else _time_of_writing(pair[1]), reverse=True)
    for _, path in found:
        try:
            lacking = _lacking(read_checkpoint(path, tensors=False), cfg or {})
        except UnreadableError as error:
            print_log(f'passed over: {error}', logger='current', level=logging.WARNING)
            continue
        except ModuleNotFoundError as error:  # for a file of safetensors
            print_log(f'passed over: {path}: {error}', logger='current', level=logging.WARNING)
            continue
        if lacking:
            said = f'passed over: {path} is not a checkpoint of a run: it lacks {", ".join(lacking)}'
            print_log(said, logger='current', level=logging.WARNING)
            continue
        yield path


def _time_of_writing(path: Path) -> int:
    """Time of the last write in nanoseconds; 0 for a file that no longer exists."""
    try:
        return path.lstat().st_mtime_ns
    except FileNotFoundError:
        return 0


def _lacking(checkpoint: dict, cfg: Mapping) -> list[str]:
    """Entries that a run of a config needs to continue, and that a file lacks."""
    lacking = [key for key in ('state_dict', 'meta', 'message_hub') if not isinstance(checkpoint.get(key), dict)]
    meta = checkpoint.get('meta')
    if isinstance(meta, dict):
        lacking += [f'meta.{key}' for key in ('epoch', 'iter') if type(meta.get(key)) is not int]
    if cfg.get('optim_wrapper') and 'optimizer' not in checkpoint:
        lacking.append('optimizer')
    if schedulers := cfg.get('param_scheduler'):
        wanted = len(schedulers) if isinstance(schedulers, (list, tuple)) else 1
        held = checkpoint.get('param_schedulers')
        if held is None:
            lacking.append('param_schedulers')
        elif isinstance(held, list) and len(held) != wanted:  # mmengine would pair them as far as they go
            lacking.append(f'param_schedulers ({wanted} in the config, {len(held)} in the file)')
    hooks = [*(cfg.get('custom_hooks') or ()), *(cfg.get('default_hooks') or {}).values()]
    if any(is_of_kind(hook, r'([\w.]+\.)?EMAHook') for hook in hooks) and 'ema_state_dict' not in checkpoint:
        lacking.append('ema_state_dict')
    return lacking


def check_resumed(cfg: Config) -> None:
    """Fail before a model is built where a config names a checkpoint that its run cannot go on from.

    mmengine would start what is not there again: optimizer, schedules and averages.

    Args:
        cfg: Config with `resume=True`, and the checkpoint as `load_from`.

    Raises:
        RuntimeError: The checkpoint is not available or readable, or lacks what the run needs.
    """
    if is_of_kind(cfg.get('strategy'), r'([\w.]+\.)?(DeepSpeed|ColossalAI)Strategy'):
        return  # these have formats of their own
    path = cfg.load_from
    local = os.path.lexists(path)
    checkpoint = read_checkpoint(path, tensors=False) if local else CheckpointLoader.load_checkpoint(path, 'cpu')
    if lacking := _lacking(checkpoint, cfg):
        raise RuntimeError(
            f'--resume: {path} is not a checkpoint that this run can go on from: it lacks {", ".join(lacking)}. To '
            'go on with a run, name one of its epoch_*.pth or iter_*.pth (best_*.pth holds weights alone). To start a '
            f'run with these weights, leave --resume out and set --cfg-options load_from={path}'
        )


_NAME = re.compile(r'(?P<unit>epoch|iter)_(?P<count>\d+)\.pth')


def checkpoint_folder(cfg: Config) -> Path:
    """The folder of a run's checkpoints: its work directory, or `out_dir` of the hook."""
    work_dir = Path(cfg.work_dir)
    out_dir = cfg.get('default_hooks', {}).get('checkpoint', {}).get('out_dir')
    return Path(out_dir, work_dir.name) if out_dir and out_dir != cfg.work_dir else work_dir


def resume_newest(cfg: Config) -> None:
    """Let a config resume from the newest whole checkpoint of its run, or start from scratch where there is none.

    mmengine would take the one that the file `last_checkpoint` names, whole or not.

    Raises:
        RuntimeError: there are checkpoints, and all of them are damaged.
    """
    folder = checkpoint_folder(cfg)
    newest = next(whole_checkpoints(folder, cfg), None)
    if newest is not None:
        cfg.resume, cfg.load_from = True, str(newest)
        return
    if any(_NAME.fullmatch(path.name) for path in folder.glob('*.pth')):
        raise RuntimeError(
            f'--resume: no checkpoint in {folder} is whole. Start from scratch in another --work-dir, or remove them'
        )
    cfg.resume = False
    print_log(
        f'--resume: no checkpoint in {folder} yet; the run starts from scratch', logger='current', level=logging.WARNING
    )
