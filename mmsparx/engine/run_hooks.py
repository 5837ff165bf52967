"""This package's hooks in a config: each of them once, and none lost without a word."""

import logging
import re
from collections.abc import Mapping

from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.logging import print_log

from mmsparx.engine.arguments import find_backbone, find_hook
from mmsparx.engine.common import is_first_process, type_name
from mmsparx.engine.hooks import IterationSeedHook, LabelCheckHook, ScheduleCheckHook
from mmsparx.engine.nan_guard import NaNGuardHook

# The hooks of configs/_base_/sparx_runtime.py but for StrictLoadHook, which the tools add to every run, and what a run
# is without each.
EXPECTED: Mapping[type[Hook], str] = {
    IterationSeedHook: 'a resumed run draws other random numbers than one that was not interrupted',
    NaNGuardHook: 'a loss or gradient that is not finite reaches the weights, and the run goes on',
    LabelCheckHook: 'classes and labels that do not fit the heads are learned, or fail within a loss',
    ScheduleCheckHook: 'a warm-up that is longer than the run, or a step behind its end, is not named',
}
WITHOUT = 'without_hooks'  # setting of a config that leaves some of them out


def merge_hooks(cfg: Config) -> list[str]:
    """Make one of several `custom_hooks` of this package of one type: a config adds settings to those of its base.

    Later settings take precedence. Of `StrictLoadHook` there may be several, which count as one by themselves.

    Returns:
        The changes, as a line each.
    """
    merged, changes = [], []
    for hook in cfg.get('custom_hooks') or ():
        name = _own_name(hook)
        earlier = next((i for i, other in enumerate(merged) if name is not None and _own_name(other) == name), None)
        if earlier is None:
            merged.append(hook)
            continue
        merged[earlier] = {**merged[earlier], **hook}
        changes.append(f'custom_hooks: {name} is there again; its settings were added to those of the first')
    if changes:
        cfg.custom_hooks = merged
    return changes


def _own_name(hook: Mapping) -> str | None:
    """The name of a hook of this package, but for StrictLoadHook."""
    match = re.fullmatch(r'mmsparx\.(?:[\w.]+\.)?(\w+)', type_name(hook) or '')
    return match[1] if match and match[1] != 'StrictLoadHook' else None


def warn_of_missing_hooks(cfg: Config) -> None:
    """Warn where a network of this package is trained without hooks that its base configs have.

    A list in a config replaces that of its base, so that `custom_hooks` of one's own drop those of the base.

    Raises:
        ValueError: `without_hooks`, which leaves some of them out on purpose, has a name that is none of theirs.
    """
    left_out = cfg.get(WITHOUT) or ()
    names = [cls.__name__ for cls in EXPECTED]
    if isinstance(left_out, str) or (unknown := [name for name in left_out if name not in names]):
        got = repr(left_out) if isinstance(left_out, str) else ', '.join(map(repr, unknown))
        raise ValueError(f'{WITHOUT}: expected a list of some of {", ".join(names)}, got {got}')
    if find_backbone(cfg) is None or not is_first_process():
        return
    scope = cfg.get('default_scope')
    there = [find_hook(hook['type'], scope) for hook in cfg.get('custom_hooks') or () if 'type' in hook]
    missing = {
        wanted.__name__: without
        for wanted, without in EXPECTED.items()
        if wanted.__name__ not in left_out
        and not any(isinstance(cls, type) and issubclass(cls, wanted) for cls in there)
    }
    if not missing:
        return
    added = ', '.join(f"dict(type='mmsparx.{name}')" for name in missing)
    print_log(
        'custom_hooks lacks hooks that the base configs of mmsparx have. Without\n'
        + ''.join(f'  {name}: {without}\n' for name, without in missing.items())
        + 'A list in a config replaces that of its base. To keep the hooks of the base, write custom_hooks = '
        f'[*_base_.custom_hooks, ...], or add {added}. To go without them on purpose, set {WITHOUT} = {list(missing)}',
        logger='current',
        level=logging.WARNING,
    )
