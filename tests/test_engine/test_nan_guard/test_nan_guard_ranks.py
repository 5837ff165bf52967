"""All ranks act on a finding of one rank."""

import multiprocessing
import os

import torch
from helpers.runners import Net, images, make_runner, reproducer, stopped
from mmengine.runner import Runner

from mmsparx.engine import NaNGuardHook


def run_rank(rank, folder):
    """Run one of two processes: write the message of a run that stops, then the weights of a run that goes back."""
    torch.set_num_threads(1)
    Runner._log_env = lambda *_: None  # it takes seconds
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE='2')
    torch.distributed.init_process_group('gloo', f'file://{folder}/meet', rank=rank, world_size=2)

    def make(name, fault, **options):
        wrapper = {'model_wrapper_cfg': {'type': 'MMDistributedDataParallel', 'device_ids': None}}
        checkpoints = {'checkpoint': {'type': 'CheckpointHook', 'interval': 1, 'by_epoch': False}}
        common = {'launcher': 'pytorch', 'cfg': wrapper, 'default_hooks': checkpoints, 'iters': 3}
        # The ranks have images 0, 2, 4, 6 and 1, 3, 5, 7, so that the fault is in the second rank's second batch.
        return make_runner(folder / name, Net(fault), NaNGuardHook(**options), data=images(5), **common)

    (folder / f'message_{rank}').write_text(stopped(make('stops', 'loss')))
    runner = make('goes_back', 'gradient', action='rewind')
    runner.train()
    torch.save(runner.model.module.state_dict(), folder / f'weights_{rank}.pth')
    torch.distributed.destroy_process_group()  # its threads may abort the process at its end otherwise


def test_all_ranks_act_on_a_finding_of_one(tmp_path):
    spawn = multiprocessing.get_context('spawn')
    ranks = [spawn.Process(target=run_rank, args=(rank, tmp_path)) for rank in range(2)]
    for each in ranks:
        each.start()
    for each in ranks:
        each.join(300)
        each.kill()
    assert [each.exitcode for each in ranks] == [0, 0]

    message = (tmp_path / 'message_0').read_text()
    assert message == (tmp_path / 'message_1').read_text()
    assert "rank 1: loss 'loss': nan" in message
    assert 'rank 0' not in message
    assert '/images/7.png' in message
    for folder in (tmp_path / 'stops', tmp_path / 'goes_back'):
        assert [path.name for path in (folder / 'nan_guard').iterdir()] == ['iter_2_rank_1.json']
        assert reproducer(folder, 2, 1)['world_size'] == 2

    one, other = (torch.load(tmp_path / f'weights_{rank}.pth', weights_only=True) for rank in range(2))
    for name, _ in Net().named_parameters():
        assert torch.equal(one[name], other[name])
        assert one[name].isfinite().all()
