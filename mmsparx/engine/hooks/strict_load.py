"""Checkpoints that match the model, or an error: mmengine warns and goes on."""

import shlex
from collections.abc import Mapping, MutableMapping, Sequence

from mmengine.hooks import Hook
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.runner import BaseLoop, Runner
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import FullyShardedDataParallel

from mmsparx.engine.common import is_of_kind
from mmsparx.registry import HOOKS
from mmsparx.weights import choose_weights, match_weights
from mmsparx.weights.causes import Options

STRICT_LOAD = r'mmsparx\.([\w.]+\.)?StrictLoadHook'  # its names in configs


@HOOKS.register_module()
class StrictLoadHook(Hook):
    """Compare a checkpoint with the model before the runner loads it, as strictly as `load_pretrained`.

    For what `load_from`, a test or a resume loads, by published names of a SparX backbone or by ours,
    whatever the model is; the averaged copy (EMA), too. The report goes to the log.

    Several of them count as one, whose `may_differ` is all of theirs: a config may have one beside its base config's.

    On a resume the config in the checkpoint's message hub becomes that of this run, as mmengine's
    RuntimeInfoHook wrote it there before.

    Args:
        may_differ: Names that need not match, see `load_pretrained`: for a head of other classes than
            those of `load_from`. On a resume everything must match.

    Raises:
        RuntimeError: Something does not match that must, see `load_pretrained`; raised by the runner. The message
            has the options that let it differ, to copy.
    """

    priority = 'VERY_HIGH'  # EMAHook copies the weights, by the model's names

    def __init__(self, may_differ: str | Sequence[str] = ()):
        self.may_differ = may_differ

    def after_load_checkpoint(self, runner: Runner, checkpoint: MutableMapping) -> None:
        all_of_them = [hook for hook in getattr(runner, 'hooks', ()) if isinstance(hook, StrictLoadHook)] or [self]
        if self is not all_of_them[0]:
            return
        model, own = _unwrapped(runner.model)
        resumed = bool(runner._resume)
        patterns = [] if resumed else [pattern for hook in all_of_them for pattern in _as_list(hook.may_differ)]
        options = _options(runner, resumed)

        def matched(weights: str) -> dict[str, Tensor]:
            given = choose_weights(checkpoint, 'the checkpoint', weights).state_dict
            return match_weights(
                model, given, 'the checkpoint', own=own, may_differ=patterns, whole=resumed, options=options
            )[0]

        if resumed and 'ema_state_dict' in checkpoint:
            others = {name: x for name, x in checkpoint['ema_state_dict'].items() if not name.startswith('module.')}
            raw = matched('raw')
            checkpoint['ema_state_dict'] = others | {f'module.{name}': x for name, x in raw.items()}
        checkpoint['state_dict'] = matched('auto')

        hub = checkpoint.get('message_hub')
        info = hub.get('runtime_info') if isinstance(hub, Mapping) else None
        if isinstance(info, MutableMapping) and 'cfg' in info:
            info['cfg'] = runner.cfg.pretty_text


def _options(runner: Runner, resumed: bool) -> Options:
    """The options of a run in messages."""
    if resumed:  # everything has to match
        return Options(prefix=None, alone=None, differ=None)

    def differ(patterns: Sequence[str]) -> str:
        return _recipe(runner, patterns)

    loops = {name: isinstance(getattr(runner, f'_{name}_loop', None), BaseLoop) for name in ('train', 'val', 'test')}
    if not loops['train'] and (loops['val'] or loops['test']):
        return Options(prefix=None, alone=None, differ=differ, start=False)
    file = getattr(runner, '_load_from', None) or 'FILE'
    alone = (
        'To start from it, leave load_from out and give the file to the backbone: '
        f"model.{{part}}.init_cfg=dict(type='Pretrained', checkpoint={file!r}{{prefix}})"
    )
    return Options(prefix=None, alone=alone, differ=differ)


def _recipe(runner: Runner, patterns: Sequence[str]) -> str:
    """The ways to let names differ, to copy, a line each."""
    hook = f"dict(type='mmsparx.StrictLoadHook', may_differ={list(patterns)})"
    ways = [
        f'in the config: custom_hooks = [*_base_.custom_hooks, {hook}]',
        f'or with mmsparx train: --may-differ {" ".join(map(shlex.quote, patterns))}',
    ]
    for i, hook in enumerate(getattr(runner, 'cfg', {}).get('custom_hooks') or ()):
        if is_of_kind(hook, STRICT_LOAD):
            every = [*_as_list(hook.get('may_differ', ())), *patterns]
            setting = f'custom_hooks.{i}.may_differ=[{",".join(every)}]'
            ways.append(f'or with any tool: --cfg-options {shlex.quote(setting)}')
            break
    return '\n'.join(['', *(f'  {way}' for way in ways), ''])


def _as_list(may_differ: str | Sequence[str]) -> list[str]:
    return [may_differ] if isinstance(may_differ, str) else list(may_differ)


def _unwrapped(model: nn.Module) -> tuple[nn.Module, dict[str, Tensor]]:
    """A runner's model without its wrappers, and its state dict."""
    if isinstance(model, FullyShardedDataParallel):  # its state_dict() may be of shards, or of the first process alone
        return model, get_model_state_dict(model, options=StateDictOptions(full_state_dict=True))
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    return model, model.state_dict()
