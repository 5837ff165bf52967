"""The search for the newest checkpoint that is whole."""

import os
from fractions import Fraction

import pytest
import torch
from mmengine.config import Config
from mmengine.logging import MMLogger

from mmsparx.engine.resume import check_resumed, resume_newest, whole_checkpoints


@pytest.fixture(autouse=True)
def _no_logger_of_another_run():
    MMLogger._instance_dict.clear()


WHOLE = {
    'state_dict': {'weight': torch.randn(100)},
    'meta': {'epoch': 1, 'iter': 1},
    'message_hub': {},
    'optimizer': {},
}


def save(folder, *names):
    for name in names:
        torch.save(WHOLE, folder / name)


def damage(path):
    path.write_bytes(path.read_bytes()[:-200])


def flip(after=b'', distance=0):
    """Flips a bit of a file, some bytes after a given sequence."""

    def damage(path):
        data = bytearray(path.read_bytes())
        data[data.index(after) + distance] ^= 1
        path.write_bytes(data)

    return damage


def replace(make):
    """Puts something else in the place of a file."""

    def damage(path):
        path.unlink()
        make(path)

    return damage


def without(*keys):
    """Leaves entries out of a whole checkpoint."""
    return lambda path: torch.save({key: x for key, x in WHOLE.items() if key not in keys}, path)


# Faults of the newest file, and the messages about them.
FAULTS = {
    'cut off': (damage, 'is damaged: cut off after'),
    'first bit': (flip(), 'is damaged, or no checkpoint: no known format begins with'),
    'bit of a weight': (flip(b'/data/0', 200), 'is damaged: the record'),
    'empty': (lambda path: path.write_bytes(b''), 'it is empty'),
    'zeros': (lambda path: path.write_bytes(bytes(5000)), 'it begins with 4096 zeros'),
    'text': (lambda path: path.write_text('Hello.'), 'it is a text file'),
    'page': (lambda path: path.write_text('<!DOCTYPE html>'), 'it is a web page'),
    'folder': (replace(lambda path: path.mkdir()), 'is a folder'),
    'pipe': (replace(os.mkfifo), 'is a named pipe'),
    'dangling link': (replace(lambda path: path.symlink_to('nonesuch')), 'is a symbolic link to nonesuch'),
    'link to itself': (replace(lambda path: path.symlink_to(path.name)), 'leads back to itself'),
    'flat state dict': (lambda path: torch.save(WHOLE['state_dict'], path), 'it lacks state_dict, meta, message_hub'),
    'list': (lambda path: torch.save([1], path), 'expected a dict of weights, got a list'),
    'no progress': (lambda path: torch.save({**WHOLE, 'meta': {'epoch': 1}}, path), 'it lacks meta.iter'),
    'no history': (without('message_hub'), 'it lacks message_hub'),
    'object': (lambda path: torch.save({**WHOLE, 'x': Fraction(1)}, path), 'it asks to call fractions.'),
}


class TestWholeCheckpoints:
    def test_newest_first(self, tmp_path):
        save(tmp_path, 'epoch_9.pth', 'epoch_10.pth', 'epoch_2.pth', 'best_coco_epoch_11.pth', 'other.pth')
        assert [path.name for path in whole_checkpoints(tmp_path)] == ['epoch_10.pth', 'epoch_9.pth', 'epoch_2.pth']

    def test_epochs_among_iterations_by_time(self, tmp_path):
        save(tmp_path, 'epoch_2.pth', 'iter_500.pth')
        os.utime(tmp_path / 'iter_500.pth', (1, 1))
        assert [path.name for path in whole_checkpoints(tmp_path)] == ['epoch_2.pth', 'iter_500.pth']

    def test_damaged_ones_are_named_and_passed_over(self, tmp_path, capfd):
        save(tmp_path, *(f'iter_{i}.pth' for i in range(1, 5)))
        damage(tmp_path / 'iter_4.pth')
        (tmp_path / 'iter_2.pth').write_bytes(b'')
        assert [path.name for path in whole_checkpoints(tmp_path)] == ['iter_3.pth', 'iter_1.pth']
        output = ''.join(capfd.readouterr())
        assert 'iter_4.pth is damaged: cut off' in output
        assert 'iter_2.pth was not loaded: it is empty' in output

    @pytest.mark.parametrize('fault', FAULTS)
    def test_every_fault_of_the_newest(self, fault, tmp_path, capfd):
        save(tmp_path, 'iter_1.pth', 'iter_2.pth')
        become, said = FAULTS[fault]
        become(tmp_path / 'iter_2.pth')
        assert [path.name for path in whole_checkpoints(tmp_path)] == ['iter_1.pth']
        output = ' '.join(''.join(capfd.readouterr()).split())
        assert f'passed over: {tmp_path}/iter_2.pth' in output
        assert said in output

    def test_none(self, tmp_path):
        assert list(whole_checkpoints(tmp_path / 'nonesuch')) == []


RUN = {
    'optim_wrapper': dict(type='OptimWrapper'),
    'param_scheduler': [dict(type='LinearLR'), dict(type='CosineAnnealingLR')],
    'custom_hooks': [dict(type='mmengine.EMAHook')],
}
OF_RUN = {**WHOLE, 'param_schedulers': [{}, {}], 'ema_state_dict': {}}


class TestCheckResumed:
    @pytest.mark.parametrize(
        'lacking', ['state_dict', 'message_hub', 'optimizer', 'param_schedulers', 'ema_state_dict']
    )
    def test_missing_entries_are_named(self, lacking, tmp_path):
        path = tmp_path / 'best_coco_epoch_1.pth'
        torch.save(OF_RUN, path)
        cfg = Config(dict(RUN, load_from=str(path), resume=True))
        check_resumed(cfg)
        torch.save({key: x for key, x in OF_RUN.items() if key != lacking}, path)
        with pytest.raises(RuntimeError, match=rf'it lacks {lacking}\. .*leave --resume out .* load_from={path}'):
            check_resumed(cfg)

    def test_a_run_needs_no_more_than_its_config_has(self, tmp_path):
        torch.save({key: WHOLE[key] for key in ('state_dict', 'meta', 'message_hub')}, tmp_path / 'iter_1.pth')
        check_resumed(Config(dict(load_from=str(tmp_path / 'iter_1.pth'), resume=True)))

    def test_another_number_of_schedulers(self, tmp_path):
        torch.save({**OF_RUN, 'param_schedulers': [{}]}, tmp_path / 'iter_1.pth')
        with pytest.raises(RuntimeError, match=r'lacks param_schedulers \(2 in the config, 1 in the file\)'):
            check_resumed(Config(dict(RUN, load_from=str(tmp_path / 'iter_1.pth'))))

    def test_no_such_file(self, tmp_path):
        with pytest.raises(RuntimeError, match=r'nothing\.pth'):
            check_resumed(Config(dict(RUN, load_from=str(tmp_path / 'nothing.pth'))))


class TestResumeNewest:
    def test_takes_the_newest_complete_one(self, tmp_path, capfd):
        torch.save(OF_RUN, tmp_path / 'iter_1.pth')
        save(tmp_path, 'iter_2.pth')
        cfg = Config(dict(RUN, work_dir=str(tmp_path)))
        resume_newest(cfg)
        assert cfg.load_from == str(tmp_path / 'iter_1.pth')
        output = ' '.join(''.join(capfd.readouterr()).split())
        assert 'iter_2.pth is not a checkpoint of a run: it lacks param_schedulers, ema_state_dict' in output

    def test_takes_the_newest_whole_one(self, tmp_path):
        save(tmp_path, 'iter_1.pth', 'iter_2.pth')
        damage(tmp_path / 'iter_2.pth')
        (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'iter_2.pth'))
        cfg = Config(dict(work_dir=str(tmp_path)))
        resume_newest(cfg)
        assert (cfg.resume, cfg.load_from) == (True, str(tmp_path / 'iter_1.pth'))

    def test_in_the_hooks_folder(self, tmp_path):
        (tmp_path / 'elsewhere/run').mkdir(parents=True)
        save(tmp_path / 'elsewhere/run', 'epoch_1.pth')
        hooks = dict(checkpoint=dict(type='CheckpointHook', out_dir=str(tmp_path / 'elsewhere')))
        cfg = Config(dict(work_dir=str(tmp_path / 'run'), default_hooks=hooks))
        resume_newest(cfg)
        assert cfg.load_from == str(tmp_path / 'elsewhere/run/epoch_1.pth')

    def test_starts_from_scratch_without_one(self, tmp_path, capfd):
        cfg = Config(dict(work_dir=str(tmp_path), resume=True, load_from=None))
        resume_newest(cfg)
        assert not cfg.resume
        assert 'the run starts from scratch' in ''.join(capfd.readouterr())

    def test_never_starts_from_scratch_over_damaged_ones(self, tmp_path):
        save(tmp_path, 'iter_1.pth')
        damage(tmp_path / 'iter_1.pth')
        with pytest.raises(
            RuntimeError, match=r'no checkpoint in .* is whole\. Start from scratch in another --work-dir'
        ):
            resume_newest(Config(dict(work_dir=str(tmp_path))))


@pytest.mark.parametrize('address', ['http://127.0.0.1:9/iter_1.pth', 'openmmlab://no_such'])
def test_an_unavailable_address(address):
    with pytest.raises(RuntimeError, match=rf'the weights {address} are not available: .* give its path'):
        check_resumed(Config(dict(RUN, load_from=address)))
