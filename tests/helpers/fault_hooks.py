"""A hook that causes a fault, for runs in separate processes: `custom_imports` with tests/ on PYTHONPATH."""

import os
import signal

from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from helpers.tools import run_command

VARIABLE = 'MMSPARX_TEST_KILL'


def kill_self(*_):
    os.kill(os.getpid(), signal.SIGKILL)


@HOOKS.register_module(force=True)
class KillHook(Hook):
    """Kill the process at the moment that the environment names, such as `writing:3`, `training` or `validation`."""

    priority = 'LOWEST'

    def __init__(self):
        self.moment, _, iteration = os.environ.get(VARIABLE, '').partition(':')
        self.iteration = int(iteration or 0)

    def before_train(self, runner):
        if self.moment != 'writing':
            return
        rename = os.replace

        def replace(source, target):
            (kill_self if str(target).endswith(f'iter_{self.iteration}.pth') else rename)(source, target)

        os.replace = replace

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if self.moment == 'training' and runner.iter + 1 == self.iteration:
            kill_self()

    def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if self.moment == 'validation' and runner.iter == self.iteration:
            kill_self()


def train_until(moment: str, *arguments: str) -> None:
    """Run `mmsparx train` with the hook, which kills the process at `moment`."""
    os.environ[VARIABLE] = moment
    run_command('train', *arguments)
