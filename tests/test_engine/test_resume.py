"""Finding the newest checkpoint that is whole."""

import os

import pytest
import torch
from mmengine.config import Config
from mmengine.logging import MMLogger

from mmsparx.engine.resume import resume_newest, whole_checkpoints


@pytest.fixture(autouse=True)
def _no_logger_of_another_run():
    MMLogger._instance_dict.clear()


def save(folder, *names):
    for name in names:
        torch.save({'weight': torch.randn(100)}, folder / name)


def damage(path):
    path.write_bytes(path.read_bytes()[:-200])


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
        told = ''.join(capfd.readouterr())
        assert 'iter_4.pth is damaged: cut off' in told
        assert 'iter_2.pth is damaged: it is empty' in told

    def test_none(self, tmp_path):
        assert list(whole_checkpoints(tmp_path / 'nonesuch')) == []


class TestResumeNewest:
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

    def test_starts_anew_where_there_is_none(self, tmp_path, capfd):
        cfg = Config(dict(work_dir=str(tmp_path), resume=True, load_from=None))
        resume_newest(cfg)
        assert not cfg.resume
        assert 'the run starts anew' in ''.join(capfd.readouterr())

    def test_never_starts_anew_over_damaged_ones(self, tmp_path):
        save(tmp_path, 'iter_1.pth')
        damage(tmp_path / 'iter_1.pth')
        with pytest.raises(RuntimeError, match=r'no checkpoint in .* is whole\. Start anew in another --work-dir'):
            resume_newest(Config(dict(work_dir=str(tmp_path))))
