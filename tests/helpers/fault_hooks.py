"""A hook that plants a fault, which a config names in custom_imports, and runs that it kills."""

import multiprocessing
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


def exit_code_of_training(moment: str, *arguments: object) -> int:
    """How a run of `mmsparx train` ends that is killed at a moment; in a process of its own.

    The process is a fork of one that has imported what takes most of the time of a start, and has run nothing.
    """
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(['mmdet.models', 'mmsparx.engine.training'])
    process = context.Process(target=_train, args=(moment, *map(str, arguments)))
    process.start()
    process.join()
    return process.exitcode


def _train(moment: str, *arguments: str) -> None:
    os.environ[VARIABLE] = moment
    run_command('train', *arguments)
