"""Checkpoints that match the model, or an error: mmengine warns and goes on."""

from collections.abc import Mapping, MutableMapping, Sequence

from mmengine.hooks import Hook
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import FullyShardedDataParallel

from mmsparx.registry import HOOKS
from mmsparx.weights import choose_weights, match_weights


@HOOKS.register_module()
class StrictLoadHook(Hook):
    """Compare a checkpoint with the model before the runner loads it, as strictly as `load_pretrained`.

    For what `load_from`, a test or a resume loads, by published names of a SparX backbone or by ours,
    whatever the model is; the averaged copy (EMA), too. The report goes to the log.

    On a resume the config in the checkpoint's message hub becomes that of this run, as mmengine's
    RuntimeInfoHook wrote it there before.

    Args:
        may_differ: names that need not match, see `load_pretrained`: for a head of other classes than
            those of `load_from`. On a resume everything must match.

    Raises:
        RuntimeError: from the runner, where something does not match that must; see `load_pretrained`.
    """

    priority = 'VERY_HIGH'  # EMAHook copies the weights, by the model's names

    def __init__(self, may_differ: str | Sequence[str] = ()):
        self.may_differ = may_differ

    def after_load_checkpoint(self, runner: Runner, checkpoint: MutableMapping) -> None:
        model, own = _unwrapped(runner.model)
        resumed = bool(runner._resume)

        def matched(weights: str) -> dict[str, Tensor]:
            given = choose_weights(checkpoint, 'the checkpoint', weights).state_dict
            may_differ = () if resumed else self.may_differ
            return match_weights(model, given, 'the checkpoint', own=own, may_differ=may_differ, whole=resumed)[0]

        if resumed and 'ema_state_dict' in checkpoint:
            others = {name: x for name, x in checkpoint['ema_state_dict'].items() if not name.startswith('module.')}
            raw = matched('raw')
            checkpoint['ema_state_dict'] = others | {f'module.{name}': x for name, x in raw.items()}
        checkpoint['state_dict'] = matched('auto')

        hub = checkpoint.get('message_hub')
        info = hub.get('runtime_info') if isinstance(hub, Mapping) else None
        if isinstance(info, MutableMapping) and 'cfg' in info:
            info['cfg'] = runner.cfg.pretty_text


def _unwrapped(model: nn.Module) -> tuple[nn.Module, dict[str, Tensor]]:
    """A runner's model without its wrappers, and its state dict."""
    if isinstance(model, FullyShardedDataParallel):  # its state_dict() may be of shards, or of the first process alone
        return model, get_model_state_dict(model, options=StateDictOptions(full_state_dict=True))
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    return model, model.state_dict()
