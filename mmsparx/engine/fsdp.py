"""Fully sharded training of SparX networks, by mmengine's FlexibleRunner.

Named in configs by their import paths: they are in no registry.
"""

from mmengine._strategy import FSDPStrategy as MMEngineFSDPStrategy
from mmengine.device import get_device
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel

from mmsparx.models.stage import SparXLayer


def layer_policy(module: nn.Module, recurse: bool, nonwrapped_numel: int) -> bool:
    """An `auto_wrap_policy` by which each layer of a SparX network is gathered and freed on its own."""
    return recurse or isinstance(module, SparXLayer)


class FSDPStrategy(MMEngineFSDPStrategy):
    """mmengine's, with which a run can also be resumed, and run without GPUs.

    See there for the arguments. `state_dict_cfg='full'` writes checkpoints that load into the plain
    network; the sharded ones of 'local' are refused by weights-only loading.
    """

    def __init__(self, *, model_wrapper: dict | None = None, **kwargs):
        if get_device() == 'cpu':  # else mmengine names a GPU
            model_wrapper = {'type': 'MMFullyShardedDataParallel', **(model_wrapper or {}), 'device_id': 'cpu'}
        super().__init__(model_wrapper=model_wrapper, **kwargs)

    def _init_state_dict_cfg(self, state_dict_cfg: str | dict) -> None:
        super()._init_state_dict_cfg(state_dict_cfg)
        if get_device() == 'cpu':
            # torch takes what it moves to the CPU for a copy and frees or reuses the rest: weights are lost,
            # and Adam's two moments are written as one (pytorch/pytorch#188989).
            self.state_dict_config.offload_to_cpu = self.optim_state_dict_config.offload_to_cpu = False

    def load_optim_state_dict(self, state_dict: dict) -> None:
        # mmengine 0.10 passes these in the order of torch 2.0.
        optimizer = self.optim_wrapper.optimizer
        self.optim_wrapper.load_state_dict(
            FullyShardedDataParallel.optim_state_dict_to_load(self.model, optimizer, state_dict)
        )
