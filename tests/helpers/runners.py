"""A small network in mmengine's Runner, and faults of it."""

import itertools
import json
from pathlib import Path

import pytest
import torch
from mmengine.hooks import EMAHook, Hook
from mmengine.model import BaseModel
from mmengine.optim import AmpOptimWrapper, OptimWrapper, OptimWrapperDict
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement
from torch import Tensor, nn

NAN, INF = float('nan'), float('inf')
MARK = 7.0  # value of an image for which the network fails


def unchanged(x):
    return x


# Functions that are applied there to the features and to the loss.
FAULTS = {
    'nothing': (unchanged, unchanged),
    'operator': (lambda h: (1 + h.abs()) * 3e38 * 10, unchanged),
    'gradient': (lambda h: (h * 0).sqrt(), unchanged),
    'loss': (unchanged, lambda loss: loss + torch.tensor(NAN)),  # it has no gradient
}


class Net(BaseModel):
    """`fault` is a name of `FAULTS`, or a function of the features. The weights are always the same."""

    def __init__(self, fault='nothing'):
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Linear(4, 8)
        self.norm = nn.BatchNorm1d(8)
        self.drop = nn.Dropout(0.2)
        self.head = nn.Linear(8, 1)
        self.of_features, self.of_loss = FAULTS[fault] if isinstance(fault, str) else (fault, unchanged)

    def forward(self, inputs, data_samples=None, mode='loss'):
        x = torch.stack(inputs)
        marked = bool((x == MARK).any())
        h = self.drop(self.norm(self.stem(x)))
        loss = self.head(self.of_features(h) if marked else h).square().mean()
        return {'loss_square': self.of_loss(loss) if marked else loss, 'acc': torch.tensor(NAN)}


def images(*marked, value=MARK):
    """Eight samples, of which the marked ones contain `value`."""
    generator = torch.Generator().manual_seed(1)
    data = []
    for i in range(8):
        x = torch.randn(4, generator=generator)
        x[1] = value if i in marked else x[1]
        sample = BaseDataElement(metainfo={'img_path': f'/images/{i}.png', 'ori_shape': (2, 2)})
        data.append({'inputs': x, 'data_samples': sample})
    return data


class CpuAmp(AmpOptimWrapper):
    """mmengine's wrapper, which requires a GPU, with a GradScaler for the CPU and no autocast."""

    def __init__(self, optimizer, **scaler):
        OptimWrapper.__init__(self, optimizer)
        self.loss_scaler = torch.amp.GradScaler('cpu', **scaler)
        self._scale_update_param = None

    optim_context = OptimWrapper.optim_context


_count = itertools.count()


def make_runner(folder: Path, net: BaseModel, *hooks: Hook, data: list, iters=None, runner=Runner, **options):
    """A runner over eight images, two at a time and in order: for an epoch of 4 iterations, or for `iters`."""
    sampler = {'type': 'InfiniteSampler' if iters else 'DefaultSampler', 'shuffle': False}
    common = {
        'model': net,
        'work_dir': str(folder),
        'train_dataloader': {'dataset': data, 'batch_size': 2, 'sampler': sampler},
        'train_cfg': {'by_epoch': False, 'max_iters': iters} if iters else {'by_epoch': True, 'max_epochs': 1},
        'optim_wrapper': {'optimizer': {'type': 'AdamW', 'lr': 0.01}},
        'custom_hooks': list(hooks),
        'log_level': 'ERROR',
        'randomness': {'seed': 0},
        'experiment_name': f'{folder.name}_{next(_count)}',  # mmengine keeps loggers by this name
    }
    return runner(**common | options)


def stopped(runner) -> str:
    """The message with which the guard ends a run."""
    with pytest.raises(FloatingPointError) as error:
        runner.train()
    return str(error.value)


def reproducer(folder: Path, iteration: int = 3, rank: int = 0) -> dict:
    """The file that the guard has kept of an iteration."""
    return json.loads((folder / 'nan_guard' / f'iter_{iteration}_rank_{rank}.json').read_text())


def weights_of(model: nn.Module) -> list[Tensor]:
    return [x.detach().clone() for x in model.parameters()]


def state_of(runner) -> list[Tensor]:
    """Copies of weights, averaged weights, and the optimizers' states."""
    wrapper = runner.optim_wrapper
    optimizers = [each.optimizer for each in (wrapper.values() if isinstance(wrapper, OptimWrapperDict) else [wrapper])]
    kept = [x.clone() for each in optimizers for values in each.state.values() for x in values.values()]
    averaged = [x for hook in runner.hooks if isinstance(hook, EMAHook) for x in weights_of(hook.ema_model)]
    return [*weights_of(runner.model), *averaged, *kept]


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


class Probe(Hook):
    """Keeps the state before every iteration, and after it as hooks of a usual priority see it."""

    def __init__(self):
        self.before, self.after, self.rates = [], [], []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.before.append(state_of(runner))
        self.rates.append([group['lr'] for group in runner.optim_wrapper.param_groups])

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.after.append(state_of(runner))
