"""Arguments that several commands have, and what shells complete them by."""

import argparse
from collections.abc import Callable, Sequence

# Kinds of completion, which `mmsparx.cli.completion` implements. An action without one has no completion.
FILES, FOLDERS, CONFIGS, CONFIG_NAMES = 'files', 'folders', 'configs', 'config names'


def completed(action: argparse.Action, by: str) -> argparse.Action:
    """Let shells complete an argument by one of the kinds above."""
    action.completed_by = by
    return action


def add_config_argument(parser: argparse.ArgumentParser, **options) -> None:
    """Add `config`: a file, or a shipped config's name.

    Args:
        parser: Parser to add it to.
        options: Further options of `add_argument`.
    """
    text = 'config file, or the name of a shipped config (`mmsparx configs` lists them)'
    completed(parser.add_argument('config', **{'help': text, **options}), CONFIGS)


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what training and testing share: config, work directory, overrides, launcher, and faults in annotations."""
    add_config_argument(parser)
    work_dir = parser.add_argument(
        '--work-dir', metavar='FOLDER', help="folder of logs and checkpoints (default: work_dirs/<config's name>)"
    )
    completed(work_dir, FOLDERS)
    add_option_arguments(parser)
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none', help='job launcher')
    # torch.distributed.launch passes it, in either spelling; torchrun sets the variable instead.
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument(
        '--annotation-faults',
        choices=['error', 'warn', 'ignore'],
        default='error',
        help='faults in annotations, which are checked first: end the run (default), go on with a warning, or do not '
        'check',
    )


def add_option_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `--cfg-options` and `--allow-new-keys`; `mmsparx.engine.options.apply_options` takes what they give."""
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=OptionsAction,
        default={},
        metavar='KEY=VALUE',
        help='override settings of the config, as in optim_wrapper.optimizer.lr=5e-5 key=[a,b] "key=a path"',
    )
    parser.add_argument(
        '--allow-new-keys',
        action='store_true',
        help='let --cfg-options set keys that neither the config nor its class has',
    )


class OptionsAction(argparse.Action):
    """mmengine's `DictAction`, which keeps the blanks in values and says which argument is no KEY=VALUE."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Sequence[str],
        option_string: str | None = None,
    ) -> None:
        from mmsparx.engine.options import parse_value

        options = dict(getattr(namespace, self.dest) or {})
        for argument in values:
            key, equals, value = argument.partition('=')
            if not equals or not all(key.split('.')):
                raise argparse.ArgumentError(
                    self,
                    f'expected KEY=VALUE, got {argument!r}. Put quotes around values with blanks, and other arguments '
                    f'before {option_string}',
                )
            try:
                options[key] = parse_value(value)
            except (AssertionError, ValueError) as error:  # mmengine's, of brackets, and ours, of braces
                raise argparse.ArgumentError(self, f'{argument!r}: {error}') from error
        setattr(namespace, self.dest, options)


def add_weight_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the commands that write weights share: which copy to take, and whether to write over files."""
    parser.add_argument(
        '--weights',
        choices=('auto', 'ema', 'raw'),
        default='auto',
        help='copy of the weights: the averaged (ema) or the other (raw); auto: the averaged one if there is one',
    )
    parser.add_argument('--force', action='store_true', help='overwrite an existing file')


def at_least(least: int, otherwise: str = '') -> Callable[[str], int]:
    """A type of arguments: integers from `least` on.

    Args:
        least: Smallest one.
        otherwise: Behaviour without the argument, for the message.
    """

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f'expected an integer, got {text!r}') from None
        if value < least:
            raise argparse.ArgumentTypeError(f'expected at least {least}, got {value}{otherwise}')
        return value

    return parse


def share(text: str) -> float:
    """A type of arguments: IoUs from 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f'expected an IoU from 0 to 1, got {text!r}') from None
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f'expected an IoU from 0 to 1, got {value}')
    return value
