"""Runs that are killed, and disks and folders that fail: losses and messages."""

import os
import resource
import signal
import subprocess
import sys

import pytest

pytest.importorskip('mmdet', reason='the detection tools need mmdet')
from helpers.checkpoints import assert_equal, losses
from helpers.fault_hooks import train_until
from helpers.forked import run_forked
from helpers.tools import CONFIG, ROOT, overrides

from mmsparx.weights import read_checkpoint


def test_a_run_that_is_killed_again_and_again_ends_as_if_uninterrupted(tool, coco, tmp_path):
    """kill -9 in training, while a checkpoint is written, or in validation only costs time."""
    config = tmp_path / 'config.py'
    config.write_text(f"""
_base_ = {CONFIG!r}
custom_imports = dict(imports=['mmsparx.models', 'helpers.fault_hooks'], allow_failed_imports=False)
model = dict(backbone=dict(drop_path_rate=0.3))
train_dataloader = dict(dataset=dict(pipeline=[
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='Resize', scale=(64, 64)),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]))
custom_hooks = [
    dict(type='mmsparx.IterationSeedHook'),
    dict(type='EMAHook', ema_type='ExpMomentumEMA'),
    dict(type='KillHook'),
]
""")
    options = ['--no-pretrained', '--cfg-options', *overrides(coco, iters=6, **{'train_cfg.val_interval': 2})]
    tool('train', config, '--work-dir', tmp_path / 'whole', *options)

    killed = tmp_path / 'killed'
    for moment, left in (('writing:3', 2), ('validation:4', 4), ('training:6', 5)):
        arguments = map(str, (config, '--work-dir', killed, '--resume', *options))
        code, said = run_forked(train_until, moment, *arguments, log=tmp_path / 'log')
        assert code == -signal.SIGKILL, said
        assert {path.name for path in killed.glob('*.pth')} == {f'iter_{i}.pth' for i in range(1, left + 1)}
    tool('train', config, '--work-dir', killed, '--resume', *options)

    whole, resumed = losses(tmp_path / 'whole'), losses(killed)
    assert {step for step, _ in whole} == set(range(1, 7))
    assert resumed == whole
    whole, resumed = (read_checkpoint(run / 'iter_6.pth') for run in (tmp_path / 'whole', killed))
    assert whole['meta']['iter'] == resumed['meta']['iter'] == 6
    for part in ('state_dict', 'ema_state_dict', 'optimizer', 'param_schedulers'):
        assert_equal(whole[part], resumed[part], part)
    text = resumed['message_hub']['runtime_info']['cfg']
    assert "type='mmsparx.SparXMamba'" in text  # the running config, not the placeholder of safe loading


def test_a_damaged_newest_checkpoint_is_named_and_passed_over(train, capfd):
    work = train(iters=3)
    newest = work / 'iter_3.pth'
    newest.write_bytes(newest.read_bytes()[:-1000])
    train('--resume', iters=4)
    assert 'iter_3.pth is damaged: cut off' in ''.join(capfd.readouterr())
    assert [step for step, _ in losses(work)] == [1, 2, 3, 4]  # 3 twice: equal


def test_an_incomplete_checkpoint_is_not_resumed(train):
    """They are the best checkpoint, without optimizer and schedulers, and one that was written without them."""
    work = train(iters=1, **{'default_hooks.checkpoint.save_best': 'coco/segm_mAP'})
    (best,) = work.glob('best_*.pth')
    with pytest.raises(RuntimeError, match=rf'it lacks optimizer, param_schedulers\. .* load_from={best}'):
        train('--resume', best, iters=2)
    with pytest.raises(RuntimeError, match='it lacks optimizer, param_schedulers'):  # only the config resumes
        train(iters=2, resume=True, load_from=best)
    best.rename(work / 'iter_1.pth')
    with pytest.raises(RuntimeError, match=r'no checkpoint in .* is whole'):
        train('--resume', iters=2)


def test_a_full_disk_ends_the_run_with_the_newest_whole_checkpoint(train, monkeypatch):
    """A limit on file sizes cuts off a checkpoint."""
    work = train(iters=2)
    size = (work / 'iter_2.pth').stat().st_size
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, limits[1]))
    try:
        with pytest.raises(
            OSError, match=r'could not be written\. Make room, then go on from .*iter_2\.pth with --resume'
        ):
            train('--resume', iters=4)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(work.glob('.*.part'))
    train('--resume', iters=4)
    assert [step for step, _ in losses(work)] == [1, 2, 3, 4]


def test_two_runs_in_one_work_directory(train, tmp_path):
    holder = subprocess.Popen(
        [
            sys.executable,
            '-c',
            'import sys, time\nfrom mmsparx.engine.work_dir import own_work_dir\n'
            'with own_work_dir(sys.argv[1]):\n    print("mine", flush=True)\n    time.sleep(100)',
            tmp_path / 'work',
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout.readline() == 'mine\n'
        with pytest.raises(RuntimeError, match=rf'in use by process {holder.pid} .*--work-dir'):
            train()
    finally:
        holder.kill()
        holder.wait()
    assert train(iters=1).is_dir()


def test_a_work_directory_that_cannot_be_written_to(tool, coco):
    with pytest.raises(OSError, match='the work directory cannot be written to; name another one with --work-dir'):
        tool('train', CONFIG, '--work-dir', '/sys/kernel', '--no-pretrained', '--cfg-options', *overrides(coco))


def test_a_disk_that_is_full_before_the_first_log(coco, tmp_path):
    """There is only room for the lock and for copies of the config's files."""
    options = ['--cfg-options', *overrides(coco)]
    done = subprocess.run(
        [sys.executable, 'tools/train.py', CONFIG, '--work-dir', tmp_path / 'work', '--no-pretrained', *options],
        cwd=ROOT,
        env={**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONDONTWRITEBYTECODE': '1'},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000)),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert f'a file of the run in {tmp_path}/work could not be written. Make room there' in last


def test_a_folder_for_the_results_of_a_test_that_cannot_be_written_to(tool, coco, tmp_path):
    """The error comes before the search for the checkpoint."""
    (tmp_path / 'file').touch()
    for option, path in (('--out', 'file/out.pkl'), ('--work-dir', 'file/work')):
        with pytest.raises(OSError, match=f'{option} cannot be written to; make room there, or name another place'):
            tool('test', CONFIG, 'nothing.pth', option, tmp_path / path, '--cfg-options', *overrides(coco))
