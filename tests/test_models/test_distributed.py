"""A network per token mixer in two processes: DDP without a search for unused parameters, and FSDP2 by stage."""

import copy
import multiprocessing
import traceback

import torch
from helpers import randomise, relative_error
from helpers.networks import NETWORKS, TWO_STAGES
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from mmsparx.models import SparXNet


def build(name: str, **options) -> SparXNet:
    return randomise(SparXNet(TWO_STAGES, out_indices=(0, 1), **NETWORKS[name], **options)).double()


def backward(model: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
    model.zero_grad()
    outs = model(x)
    sum(out.square().mean() for out in outs).backward()
    return outs


def averaged_gradients(model: nn.Module) -> list[Tensor]:
    for p in model.parameters():
        torch.distributed.all_reduce(p.grad)
    return [p.grad / 2 for p in model.parameters()]


def check_ddp(name: str, x: Tensor, with_cp: bool) -> None:
    reference = build(name, with_cp=with_cp)
    model = DistributedDataParallel(copy.deepcopy(reference), find_unused_parameters=False)
    for _ in range(2):  # the second step fails if a parameter had no gradient in the first
        backward(model, x)
    for _ in range(2):
        backward(reference, x)
    for (key, p), expected in zip(model.module.named_parameters(), averaged_gradients(reference), strict=True):
        assert relative_error(p.grad, expected) < 1e-10, key


def check_fsdp(name: str, x: Tensor) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh('cpu', (2,))
    model, reference = build(name), build(name)
    for stage in model.stages:
        fully_shard(stage, mesh=mesh)
    fully_shard(model, mesh=mesh)
    outs, expected = backward(model, x), backward(reference, x)
    assert all(relative_error(a, b) < 1e-12 for a, b in zip(outs, expected, strict=True))
    for (key, p), gradient in zip(model.named_parameters(), averaged_gradients(reference), strict=True):
        assert relative_error(p.grad.full_tensor(), gradient) < 1e-10, key


def run_rank(rank, folder, with_fsdp):
    torch.set_num_threads(1)
    torch.distributed.init_process_group('gloo', f'file://{folder}/meet', rank=rank, world_size=2)
    x = torch.randn(2, 3, 41, 36, generator=torch.Generator().manual_seed(rank), dtype=torch.float64)
    try:
        for name in NETWORKS:
            for with_cp in (False, True):
                check_ddp(name, x, with_cp)
            if with_fsdp:
                check_fsdp(name, x)
    except Exception:
        (folder / f'failed_{rank}').write_text(f'{name}: {traceback.format_exc()}')
        raise
    finally:
        torch.distributed.destroy_process_group()  # its threads may abort the process at its end otherwise


def test_two_processes(tmp_path):
    with_fsdp = hasattr(torch.distributed.fsdp, 'fully_shard')  # since torch 2.6
    spawn = multiprocessing.get_context('spawn')
    ranks = [spawn.Process(target=run_rank, args=(rank, tmp_path, with_fsdp)) for rank in range(2)]
    for each in ranks:
        each.start()
    for each in ranks:
        each.join(300)
        each.kill()
    failures = [path.read_text() for path in tmp_path.glob('failed_*')]
    assert ([each.exitcode for each in ranks], failures) == ([0, 0], [])
