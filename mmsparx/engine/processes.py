"""Set-up of a run of several processes before its runner is built, and its end."""

import atexit
import faulthandler
import logging
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.dist import get_world_size, is_distributed, is_main_process
from mmengine.logging import print_log

from mmsparx.engine.common import named_dicts

# The names of torch's RANK, WORLD_SIZE and LOCAL_RANK with each launcher.
_VARIABLES = {
    'pytorch': ('RANK', 'WORLD_SIZE', 'LOCAL_RANK'),
    'slurm': ('SLURM_PROCID', 'SLURM_NTASKS', 'SLURM_LOCALID'),
    'mpi': ('OMPI_COMM_WORLD_RANK', 'OMPI_COMM_WORLD_SIZE', 'OMPI_COMM_WORLD_LOCAL_RANK'),
}
# Seconds that ending the process group may take after an error, where others may never answer.
_PATIENCE = 20


@contextmanager
def ending_process_group() -> Iterator[None]:
    """End the process group that is started within this block, if any, however the block ends.

    Left to the end of the interpreter, its threads may abort a process whose work is done ("terminate called without an
    active exception"), and the run with it.

    After an error, the group is ended once the interpreter has written the traceback: until then, the other processes
    would not fail for the loss of this one, and their errors would not be taken for the cause.
    """
    try:
        yield
    except BaseException:
        atexit.register(_end_after_error)
        raise
    if torch.distributed.is_initialized():
        torch.distributed.barrier()  # none is left behind in a collective
        torch.distributed.destroy_process_group()


def _end_after_error() -> None:
    if torch.distributed.is_initialized():
        faulthandler.dump_traceback_later(_PATIENCE, exit=True)
        torch.distributed.destroy_process_group()
        faulthandler.cancel_dump_traceback_later()


def prepare_processes(cfg: Config) -> None:
    """Let a launched run work where there is no accelerator; elsewhere check that it can.

    mmengine takes a GPU per process for granted. Without any, the processes are joined over gloo, the
    model's wrapper leaves the model on the CPU, and SyncBN, which has no CPU code, becomes
    BN. The config is changed in place; the first process says what was changed, in one warning.

    Args:
        cfg: Config of a Runner or a FlexibleRunner; without a launcher it stays unchanged.

    Raises:
        RuntimeError: the launcher's variables are not set, or there are fewer GPUs than processes.
    """
    launcher = cfg.get('launcher', 'none')
    if launcher == 'none':
        return
    if missing := [name for name in _VARIABLES[launcher] if name not in os.environ]:
        raise RuntimeError(
            f'launcher {launcher!r}: {", ".join(missing)} not set. Let tools/dist_train.sh or tools/slurm_train.sh '
            '(or their twins for testing) start the processes, or use no launcher'
        )
    # mmengine leaves LOCAL_RANK out for mpi, and would put every process on the first GPU.
    for name, source in zip(_VARIABLES['pytorch'], _VARIABLES[launcher], strict=True):
        os.environ[name] = os.environ[source]
    if get_device() == 'cpu':
        if not is_distributed():
            _start_gloo(launcher, **cfg.get('env_cfg', {}).get('dist_cfg', {}))
        changes = [*_sync_bn_to_bn(cfg), *_wrapper_to_cpu(cfg)]
        if is_main_process():
            said = f'no accelerator: {get_world_size()} processes on the CPU, over gloo; changed in the config:'
            print_log('\n  '.join([said, *(changes or ['nothing'])]), logger='current', level=logging.WARNING)
    elif get_device() == 'cuda':
        here, gpus = int(os.environ.get('LOCAL_WORLD_SIZE', 0)), torch.cuda.device_count()
        if here > gpus:
            raise RuntimeError(
                f'{here} processes were started on a machine with {gpus} GPUs, and each takes one. Start fewer, or set '
                'CUDA_VISIBLE_DEVICES=-1 to run them on the CPU'
            )


def _start_gloo(launcher: str, port: int | None = None, timeout: float | None = None, **_) -> None:
    """mmengine's `init_dist` without GPUs; arguments as in `env_cfg.dist_cfg`, `timeout` in seconds."""
    if port is not None:
        os.environ['MASTER_PORT'] = str(port)
    if launcher == 'slurm' and 'MASTER_ADDR' not in os.environ:
        command = ['scontrol', 'show', 'hostnames', os.environ['SLURM_NODELIST']]
        os.environ['MASTER_ADDR'] = subprocess.check_output(command, text=True).split()[0]
    os.environ.setdefault('MASTER_PORT', '29500')
    torch.distributed.init_process_group('gloo', timeout=timeout and timedelta(seconds=timeout))


def _sync_bn_to_bn(cfg: Config) -> Iterator[str]:
    """Replace it wherever the config asks for it; yields what was replaced."""
    for key, part in named_dicts(cfg.get('model', {}), 'model'):
        if part.get('type') in ('SyncBN', 'MMSyncBN'):
            yield f'{key}: {part["type"]} -> BN, with the statistics of each process alone'
            part['type'] = 'BN'
    for key, part in (('', cfg), ('strategy.', cfg.get('strategy') or {})):
        if part.get('sync_bn'):
            yield f'{key}sync_bn: {part["sync_bn"]} -> None'
            part['sync_bn'] = None


def _wrapper_to_cpu(cfg: Config) -> Iterator[str]:
    """Let DDP leave the model where it is, instead of on a GPU; yields what was set."""
    owner, prefix, key = cfg, '', 'model_wrapper_cfg'
    if cfg.get('runner_type') == 'FlexibleRunner':
        owner, prefix, key = cfg.setdefault('strategy', {'type': 'DDPStrategy'}), 'strategy.', 'model_wrapper'
        if owner['type'] != 'DDPStrategy':
            return
    wrapper = owner.get(key) or {
        'type': 'MMDistributedDataParallel',
        'broadcast_buffers': False,
        'find_unused_parameters': cfg.get('find_unused_parameters', False),
    }
    owner[key] = {**wrapper, 'device_ids': None}
    yield f'{prefix}{key} = {owner[key]}'
