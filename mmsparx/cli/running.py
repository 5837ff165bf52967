"""Parts common to all commands: their addition to a parser, and their end."""

import argparse
import linecache
import os
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

# Exit statuses besides 0, and 2 for arguments that the parser refuses.
FAILED = 1
INTERRUPTED = 130  # a shell's status of a program ended by Ctrl-C

PACKAGE = Path(__file__).parents[1]

# Modules of mmengine whose errors are a config's fault: an unknown type, or a file that cannot be read.
_OF_CONFIGS = re.compile(r'/mmengine/(config|registry)/[^/]+$')

_ANY_TASK = "pip install 'mmsparx[det]', 'mmsparx[seg]' or 'mmsparx[cls]'"
# Commands that install a package.
_INSTALLED_BY = {
    **dict.fromkeys(('mmengine', 'cv2', 'rich', 'numpy', 'yaml', 'matplotlib', 'PIL'), _ANY_TASK),
    **dict.fromkeys(('mmdet', 'pycocotools'), "pip install 'mmsparx[det]'"),
    'mmseg': "pip install 'mmsparx[seg]'",
    **dict.fromkeys(('mmpretrain', 'timm'), "pip install 'mmsparx[cls]'"),
    **dict.fromkeys(('onnx', 'onnxscript', 'onnxruntime', 'openvino'), "pip install 'mmsparx[export]'"),
    'gradio': "pip install 'mmsparx[demo]'",
    'shtab': "pip install shtab, or 'mmsparx[completion]'",
}


@dataclass(frozen=True)
class Command:
    """A command of `mmsparx`, which a script may run as well.

    Attributes:
        name: Name of the command.
        text: Summary, a line in the list of commands.
        add_arguments: Function that adds its arguments to a parser.
        run: Function that does it; returns the exit status, None for 0.
        description: Description at the top of its help; `text` by default.
    """

    name: str
    text: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int | None]
    description: str | None = None

    def add_to(self, commands: argparse._SubParsersAction) -> None:
        """Add the command to those of a parser."""
        description = self._description()
        parser = commands.add_parser(
            self.name, help=self.text, description=description, formatter_class=_formatter(description),
            allow_abbrev=False,
        )  # fmt: skip
        self._fill(parser)

    def main(self, argv: Sequence[str] | None = None) -> int:
        """Run the command alone, as a script of `tools/` does; returns the exit status."""
        description = self._description()
        parser = argparse.ArgumentParser(
            description=description, formatter_class=_formatter(description), allow_abbrev=False
        )
        self._fill(parser)
        args = parser.parse_args(argv)
        return finish(args)

    def _description(self) -> str:
        return self.description or f'{self.text[0].upper()}{self.text[1:]}.'

    def _fill(self, parser: argparse.ArgumentParser) -> None:
        self.add_arguments(parser)
        parser.set_defaults(run=self.run)


def _formatter(description: str) -> type[argparse.HelpFormatter]:
    """Paragraphs and examples keep their lines, a single sentence is broken where the terminal ends."""
    return argparse.RawDescriptionHelpFormatter if '\n' in description.strip() else argparse.HelpFormatter


def finish(args: argparse.Namespace) -> int:
    """Run what the arguments name; returns the exit status.

    What a user can fix is a sentence on stderr, and 1. An error that nobody has foreseen is raised, so that its
    traceback can be reported.

    Args:
        args: Parsed arguments; `run` is the function that takes them.
    """
    try:
        return args.run(args) or 0
    except KeyboardInterrupt:
        sys.stderr.write('interrupted\n')
        return INTERRUPTED
    except BrokenPipeError:  # as of `mmsparx configs | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the rest of the buffer is discarded
        return FAILED
    except Exception as error:
        sentence = sentence_of(error)
        if sentence is None:
            raise
        sys.stderr.write(f'mmsparx: {sentence}\n')
        return FAILED


def sentence_of(error: Exception) -> str | None:
    """The message of an error for a user; None for a bug, whose traceback is needed."""
    if isinstance(error, ModuleNotFoundError) and (package := _missing_package(error)):
        if 'pip install' in str(error):
            return str(error)
        return f'{error}. This command needs {package}: {_INSTALLED_BY.get(package, "install it, see the README")}'
    if isinstance(error, ImportError) and not (error.name or '').startswith('mmsparx'):
        return f'{error}. `mmsparx doctor` says what does not work here, and how to fix it'
    if _is_of_memory(error):
        text = str(error).partition('\n')[0] or type(error).__name__
        return f'the memory does not suffice: {text}. Smaller images, or fewer of them at once, take less'
    if isinstance(error, OSError):
        return re.sub(r'^\[Errno \d+\] ', '', str(error)) or type(error).__name__
    if not _is_foreseen(error):
        return None
    return str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)


def _missing_package(error: ModuleNotFoundError) -> str:
    """The package that is missing, '' for a module of this one."""
    # mmengine's error for the package of a base config has no name.
    of_base = re.match(r'(\w+) is not installed', str(error))
    name = error.name or (of_base[1] if of_base else '')
    return '' if name.startswith('mmsparx') else name.partition('.')[0]


def _is_of_memory(error: Exception) -> bool:
    """Whether memory was asked for that is not there; of torch's CPU and of OpenCV by their messages."""
    known = ("can't allocate memory", 'CUDA out of memory', 'Insufficient memory')
    return isinstance(error, MemoryError) or any(text in str(error) for text in known)


def _is_foreseen(error: Exception) -> bool:
    """Whether a `raise` statement of this package has made an error, or of mmengine where it reads configs."""
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return False
    file, line = frames[-1].filename, frames[-1].lineno
    if not (Path(file).is_relative_to(PACKAGE) or _OF_CONFIGS.search(Path(file).as_posix())):
        return False
    return linecache.getline(file, line).lstrip().startswith('raise ')
