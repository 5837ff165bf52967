"""SafeCheckpointHook in small runs: a whole checkpoint is on the disk at every moment."""

import os
import resource

import pytest
import torch
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import nn

import mmsparx.engine  # noqa: F401 (its hooks)
from mmsparx.weights import read_checkpoint


class Model(BaseModel):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 1000)

    def forward(self, inputs, mode):
        loss = self.fc(inputs).square().mean()
        return {'loss': loss} if mode == 'loss' else [loss]


class Rising(BaseMetric):
    """A metric that improves every time."""

    value = 0

    def process(self, data_batch, data_samples):
        self.results.append(0)

    def compute_metrics(self, results):
        self.value += 1
        return {'acc': self.value}


class Peak(BaseMetric):
    """A metric that is best after the second epoch; the validation after `killed` kills the process."""

    runner = killed = None

    def process(self, data_batch, data_samples):
        if self.runner.epoch == self.killed:
            raise KeyboardInterrupt
        self.results.append(0)

    def compute_metrics(self, results):
        return {'acc': [0, 1, 5, 3, 4][self.runner.epoch]}


class Dataset(torch.utils.data.Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, i):
        return {'inputs': torch.ones(4) * i}


@pytest.fixture
def run(tmp_path):
    """Train a linear layer with a `SafeCheckpointHook` of these options; returns the runner."""

    def run(epochs=4, prepare=lambda runner: None, metric=None, resume=False, **options):
        loader = dict(
            dataset=Dataset(),
            sampler=dict(type='DefaultSampler', shuffle=False),
            batch_size=2,
            collate_fn=dict(type='default_collate'),
        )
        runner = Runner(
            Model(),
            str(tmp_path / 'work'),
            train_dataloader=loader,
            val_dataloader=loader,
            train_cfg=dict(by_epoch=True, max_epochs=epochs),
            val_cfg=dict(),
            val_evaluator=[metric or Rising()],
            optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1, momentum=0.9)),
            default_hooks=dict(checkpoint=dict(type='mmsparx.SafeCheckpointHook', interval=1, **options)),
            log_level='ERROR',
            experiment_name=str(tmp_path),
            resume=resume,
        )
        if isinstance(metric, Peak):
            metric.runner = runner
        prepare(runner)
        runner.train()
        return runner

    return run


def names(folder):
    return sorted(path.name for path in folder.glob('*.pth'))


def test_keeps_the_requested_number(run, tmp_path):
    run(max_keep_ckpts=2)
    assert names(tmp_path / 'work') == ['epoch_3.pth', 'epoch_4.pth']
    newest = read_checkpoint(tmp_path / 'work/epoch_4.pth')
    assert newest['message_hub']['runtime_info']['keep_ckpt_ids'] == [3, 4]
    assert (tmp_path / 'work/last_checkpoint').read_text() == str(tmp_path / 'work/epoch_4.pth')


def test_keeps_the_best(run, tmp_path):
    run(save_best='acc', max_keep_ckpts=1)
    assert names(tmp_path / 'work') == ['best_acc_epoch_4.pth', 'epoch_4.pth']


@pytest.mark.parametrize('options', [dict(max_keep_ckpts=1), dict(max_keep_ckpts=1, save_best='acc')])
def test_something_whole_is_there_at_every_moment(run, tmp_path, monkeypatch, options):
    """After each renaming and removal there are as many files of each kind as before."""
    seen = []

    def watched(function):
        def call(*args, **kwargs):
            function(*args, **kwargs)
            there = names(tmp_path / 'work')
            seen.append((sum(n.startswith('epoch') for n in there), sum(n.startswith('best') for n in there)))

        return call

    monkeypatch.setattr(os, 'replace', watched(os.replace))
    monkeypatch.setattr(os, 'remove', watched(os.remove))
    run(**options)
    assert len(seen) > 6
    assert all(epochs >= 1 for epochs, _ in seen)
    assert all(best >= 1 for _, best in seen[2:]) or 'save_best' not in options


def test_a_full_disk_ends_the_run_and_says_what_is_left(run, tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def shrink(runner):
        class Shrink(Hook):
            def before_train_epoch(self, runner):
                if runner.epoch == 2:
                    resource.setrlimit(resource.RLIMIT_FSIZE, (8000, limits[1]))

        runner.register_hook(Shrink())

    try:
        with pytest.raises(OSError, match=r'a checkpoint could not be written\. Make room, .*epoch_2\.pth with --re'):
            run(prepare=shrink, max_keep_ckpts=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert names(tmp_path / 'work') == ['epoch_2.pth']
    assert not list((tmp_path / 'work').glob('.*.part'))


@pytest.mark.parametrize('killed', [1, 2, 3])
def test_the_best_of_a_killed_run_is_that_of_a_whole_one(run, tmp_path, killed):
    """The process is killed in a validation, when the validated checkpoint is on the disk."""
    metric = Peak()
    metric.killed = killed
    with pytest.raises(KeyboardInterrupt):
        run(metric=metric, save_best='acc')
    assert f'epoch_{killed}.pth' in names(tmp_path / 'work')
    run(metric=Peak(), save_best='acc', resume=True)
    assert [name for name in names(tmp_path / 'work') if name.startswith('best')] == ['best_acc_epoch_2.pth']
    best, second = (read_checkpoint(tmp_path / f'work/{name}epoch_2.pth') for name in ('best_acc_', ''))
    assert torch.equal(best['state_dict']['fc.weight'], second['state_dict']['fc.weight'])
    info = read_checkpoint(tmp_path / 'work/epoch_4.pth')['message_hub']['runtime_info']
    assert info['best_score'] == 5


def test_without_a_best_no_validation_is_repeated(run):
    metric = Peak()
    metric.killed = 2
    with pytest.raises(KeyboardInterrupt):
        run(metric=metric)
    seen = []
    metric = Peak()
    run(metric=metric, resume=True, prepare=lambda runner: _note_validations(runner, seen))
    assert seen == [3, 4]


def _note_validations(runner, seen):
    class Note(Hook):
        def before_val(self, runner):
            seen.append(runner.epoch)

    runner.register_hook(Note())


class TestNotFinite:
    """Values that are not finite are found before they are written to a file."""

    def spoil(self, epoch, spoil):
        class Spoil(Hook):
            priority = 'VERY_HIGH'

            def after_train_epoch(self, runner):
                if runner.epoch + 1 == epoch:
                    spoil(runner)

        return lambda runner: runner.register_hook(Spoil())

    @pytest.mark.parametrize('value', [float('nan'), float('inf'), -float('inf')])
    def test_the_optimizers_state(self, run, tmp_path, value):
        def spoil(runner):
            runner.optim_wrapper.optimizer.state[runner.model.fc.bias]['momentum_buffer'][7] = value

        said = r'not finite: .*momentum_buffer of fc\.bias.* Go on from .*epoch_2\.pth with --resume and a lower'
        with pytest.raises(FloatingPointError, match=said):
            run(prepare=self.spoil(3, spoil))
        assert names(tmp_path / 'work') == ['epoch_1.pth', 'epoch_2.pth']

    def test_a_weight(self, run, tmp_path):
        def spoil(runner):
            runner.model.fc.weight.data[3, 1] = float('nan')

        with pytest.raises(FloatingPointError, match=r'not finite: .*fc\.weight.* Start again'):
            run(prepare=self.spoil(1, spoil))
        assert names(tmp_path / 'work') == []

    def test_a_statistic(self, run, tmp_path):
        def spoil(runner):
            runner.model.register_buffer('running_mean', torch.tensor([0.0, float('nan')]))

        with pytest.raises(
            FloatingPointError, match=r'not finite: buffer .running_mean.: .* Go on from .*epoch_1\.pth'
        ):
            run(prepare=self.spoil(2, spoil))

    def test_a_mask_may_be_infinite(self, run, tmp_path):
        def spoil(runner):
            runner.model.register_buffer('mask', torch.tensor([0.0, -float('inf')]))

        run(epochs=2, prepare=self.spoil(1, spoil))
        assert names(tmp_path / 'work') == ['epoch_1.pth', 'epoch_2.pth']


def test_another_backend_is_left_to_mmengine(run, tmp_path):
    run(backend_args=dict(backend='local'), max_keep_ckpts=1)
    assert names(tmp_path / 'work') == ['epoch_4.pth']
