"""Rewinds to the last good weights, with lower learning rates."""

import pytest
import torch
from helpers.runners import NAN, CpuAmp, Net, Probe, images, make_runner, same, stopped
from mmengine.hooks import EMAHook

from mmsparx.engine import NaNGuardHook
from mmsparx.engine.nan_guard.rewind import go_back, last_good_checkpoint
from mmsparx.weights import read_checkpoint

CHECKPOINTS = {'type': 'SafeCheckpointHook', '_scope_': 'mmsparx', 'interval': 1, 'by_epoch': False}


def guarded(folder, *hooks, marked=(5,), iters=4, fault='gradient', checkpoints=CHECKPOINTS, **options):
    """A run whose fault occurs in the third of every four iterations."""
    options = {'default_hooks': {'checkpoint': checkpoints}, **options}
    guard = NaNGuardHook(action='rewind', **options.pop('guard', {}))
    return make_runner(folder, Net(fault), guard, *hooks, data=images(*marked), iters=iters, **options)


def load(path):
    return read_checkpoint(path)


@pytest.mark.parametrize('averaged', [False, True])
def test_everything_is_as_the_checkpoint_has_it(tmp_path, averaged):
    probe = Probe()
    probe.priority = 45  # between the guard and EMAHook
    guarded(tmp_path, probe, *([EMAHook(momentum=0.1)] if averaged else [])).train()
    assert not same(probe.after[1], probe.before[1])
    if averaged:  # EMAHook averages after the probe, and before the checkpoint
        assert same(probe.after[2], probe.before[2])
        saved = load(tmp_path / 'iter_2.pth')
        names = [name for name, _ in Net().named_parameters()]
        count = len(names)
        assert same(probe.after[2][:count], [saved['ema_state_dict'][f'module.{name}'] for name in names])
        assert same(probe.after[2][count : 2 * count], [saved['state_dict'][name] for name in names])
    else:
        assert same(probe.after[2], probe.after[1])
    assert all(x.isfinite().all() for x in probe.after[3])
    assert not same(probe.after[3], probe.after[2])  # it goes on


def test_statistics_and_scale_are_the_checkpoints_too(tmp_path):
    net = Net('operator')
    wrapper = CpuAmp(torch.optim.AdamW(net.parameters(), 0.01), init_scale=8.0)
    runner = make_runner(
        tmp_path,
        net,
        NaNGuardHook(action='rewind'),
        data=images(5),
        iters=3,
        optim_wrapper=wrapper,
        default_hooks={'checkpoint': CHECKPOINTS},
    )
    runner.train()
    assert net.norm.num_batches_tracked == 2
    assert wrapper.loss_scaler.get_scale() == 8.0  # the bad loss had made it 4
    assert runner.iter == 3


SCHEDULES = {
    'warmup and cosine': [
        {'type': 'LinearLR', 'start_factor': 0.1, 'by_epoch': False, 'begin': 0, 'end': 5},
        {'type': 'CosineAnnealingLR', 'by_epoch': False, 'begin': 5, 'end': 14, 'T_max': 9, 'eta_min': 1e-3},
    ],
    'warmup and steps': [
        {'type': 'LinearLR', 'start_factor': 0.1, 'by_epoch': False, 'begin': 0, 'end': 9},
        {'type': 'MultiStepLR', 'by_epoch': False, 'milestones': [4, 9, 12], 'gamma': 0.1},
    ],
    'polynomial': [{'type': 'PolyLR', 'power': 0.9, 'eta_min': 1e-3, 'by_epoch': False, 'begin': 0, 'end': 15}],
    'cosine restarts': [
        {'type': 'CosineRestartLR', 'periods': [5, 9], 'restart_weights': [1, 0.5], 'eta_min': 1e-3, 'by_epoch': False}
    ],
    'one cycle': [{'type': 'OneCycleLR', 'eta_max': 0.01, 'total_steps': 15, 'by_epoch': False}],
    'none': None,
}


# Two groups of parameters; mmengine adds a group of its own for the log.
TWO_RATES = {
    'optimizer': {'type': 'AdamW', 'lr': 0.01},
    'paramwise_cfg': {'custom_keys': {'stem': {'lr_mult': 0.5}}},
}
# The schedulers' states are not saved: that of OneCycleLR holds a function, which is not loaded.
WEIGHTS = {**CHECKPOINTS, 'interval': 2, 'save_param_scheduler': False}


@pytest.mark.parametrize('schedule', SCHEDULES)
def test_every_later_rate_is_scaled_by_the_factor(tmp_path, schedule):
    rates = []
    for fault in ('nothing', 'gradient'):
        probe = Probe()
        options = {'param_scheduler': SCHEDULES[schedule], 'optim_wrapper': TWO_RATES, 'guard': {'factor': 0.25}}
        # Faults occur in iterations 4, 8 and 12, each two after a checkpoint.
        guarded(tmp_path / fault, probe, marked=(7,), iters=14, fault=fault, checkpoints=WEIGHTS, **options).train()
        rates.append(torch.tensor(probe.rates, dtype=torch.float64))
    plain, lowered = rates
    assert plain.shape == (14, len([*Net().parameters()]) + 1)
    factors = torch.tensor([1.0] * 4 + [0.25] * 4 + [0.25**2] * 4 + [0.25**3] * 2, dtype=torch.float64)
    torch.testing.assert_close(lowered, plain * factors[:, None], rtol=1e-12, atol=0)


def test_a_resumed_run_has_the_lower_rates(tmp_path):
    probes = Probe(), Probe(), Probe()
    options = {'param_scheduler': SCHEDULES['warmup and cosine'], 'optim_wrapper': TWO_RATES}
    guarded(tmp_path / 'plain', probes[0], marked=(), iters=6, **options).train()
    guarded(tmp_path / 'run', probes[1], iters=4, **options).train()
    guarded(tmp_path / 'run', probes[2], iters=6, resume=True, **options).train()
    plain, lowered = (torch.tensor(probe.rates, dtype=torch.float64) for probe in (probes[0], probes[2]))
    torch.testing.assert_close(lowered, plain[4:] * 0.5, rtol=1e-12, atol=0)


def test_it_goes_back_so_often_and_no_more(tmp_path):
    message = stopped(guarded(tmp_path, iters=14, guard={'max_rewinds': 2}))
    assert 'iteration 11,' in message
    assert 'it has gone back 2 times, as max_rewinds allows' in message


def test_without_a_checkpoint_it_stops(tmp_path):
    message = stopped(guarded(tmp_path, marked=(1,)))
    assert 'iteration 1,' in message
    assert 'no good checkpoint of it to go back to' in message


def test_the_newest_good_one_is_taken(tmp_path):
    runner = guarded(tmp_path, marked=(), iters=4)
    runner.train()
    paths = {i: tmp_path / f'iter_{i}.pth' for i in range(1, 5)}
    assert last_good_checkpoint(runner) == str(paths[4])

    paths[4].write_bytes(paths[4].read_bytes()[:-100])  # the file is damaged
    assert last_good_checkpoint(runner) == str(paths[3])

    spoilt = load(paths[3])
    spoilt['state_dict']['stem.weight'][0, 0] = NAN
    torch.save(spoilt, paths[3])
    assert last_good_checkpoint(runner) == str(paths[2])

    spoilt = load(paths[2])
    del spoilt['optimizer']
    torch.save(spoilt, paths[2])
    assert last_good_checkpoint(runner) == str(paths[1])

    runner.train_loop._iter = 0  # a new run in the folder of an old one
    assert last_good_checkpoint(runner) is None


@pytest.mark.parametrize(('value', 'is_good'), [(-float('inf'), True), (NAN, False)])
def test_a_buffer_may_be_a_mask(tmp_path, value, is_good):
    runner = guarded(tmp_path, marked=(), iters=1)
    runner.train()
    path = tmp_path / 'iter_1.pth'
    checkpoint = load(path)
    checkpoint['state_dict']['mask'] = torch.tensor([0.0, value])
    torch.save(checkpoint, path)
    assert last_good_checkpoint(runner) == (str(path) if is_good else None)


def test_hostile_files_are_passed_over(tmp_path):
    runner = guarded(tmp_path, marked=(), iters=1)
    runner.train()
    torch.save({'code': print}, tmp_path / 'iter_2.pth')
    torch.save([1], tmp_path / 'iter_3.pth')
    assert last_good_checkpoint(runner) == str(tmp_path / 'iter_1.pth')


def test_checkpoints_are_looked_for_where_the_hook_puts_them(tmp_path):
    checkpoints = {**CHECKPOINTS, 'out_dir': str(tmp_path / 'elsewhere')}
    runner = guarded(tmp_path / 'work', checkpoints=checkpoints)
    runner.train()
    assert last_good_checkpoint(runner) == str(tmp_path / 'elsewhere' / 'work' / 'iter_4.pth')
    assert not list((tmp_path / 'work').glob('*.pth'))


def test_gradients_of_other_weights_are_dropped(tmp_path):
    runner = guarded(tmp_path, marked=(), iters=1)
    runner.train()
    runner.model.head.bias.grad = torch.ones(1)
    go_back(runner, str(tmp_path / 'iter_1.pth'), 0.5)
    assert runner.model.head.bias.grad is None


def test_another_models_checkpoint_is_refused(tmp_path):
    runner = guarded(tmp_path, marked=(), iters=1)
    runner.train()
    saved = load(tmp_path / 'iter_1.pth')
    del saved['state_dict']['head.bias']
    torch.save(saved, tmp_path / 'other.pth')
    with pytest.raises(RuntimeError, match=r'head\.bias'):
        go_back(runner, str(tmp_path / 'other.pth'), 0.5)
