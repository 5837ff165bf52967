"""Files of torch.export, read without what they could have executed."""

import inspect
import io
import json
import pickle
import zipfile
from pathlib import Path

import torch
from torch.export import ExportedProgram

import mmsparx.ops  # noqa: F401  (registers the operators that graphs call)


def load(file: Path) -> torch.nn.Module:
    """The module of a file.

    Tensors are stored as bytes, and an archive that wants one unpickled is refused before torch reads it. The graph
    calls operators by name, which is what a graph is: load files alone whose source you trust.

    Raises:
        ValueError: It is no archive of torch.export of torch 2.9 or later, or it holds pickles.
    """
    _refuse_pickles(file)
    return runnable(torch.export.load(str(file)))


def runnable(program: ExportedProgram) -> torch.nn.Module:
    """An exported program as a module that takes batches of one image, and maps of one position, as well.

    Tracing notes the condition that a size was not 1, and versions of torch from 2.9 on check it. The graph does not
    depend on it, and `export` has tried it.
    """
    checks = 'check_guards' in inspect.signature(program.module).parameters
    return program.module(check_guards=False) if checks else program.module()


def _refuse_pickles(file: Path) -> None:
    if not zipfile.is_zipfile(file):
        raise ValueError(f'{file}: expected an archive of torch.export, got another file')
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
        if not any(name.endswith('/archive_format') for name in names):
            raise ValueError(f'{file}: expected an archive of torch.export, got another archive, or an older version')
        for name in names:
            if name.endswith('_config.json'):
                _check_payload(file, name, archive.read(name))
            elif '/sample_inputs/' in name and name.endswith('.pt'):
                try:
                    torch.load(io.BytesIO(archive.read(name)), weights_only=True)
                except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
                    raise ValueError(f'{file}: {name} holds more than tensors; it is not loaded') from error


def _check_payload(file: Path, name: str, content: bytes) -> None:
    try:
        entries = json.loads(content)['config']
        pickled = [key for key, entry in entries.items() if entry['use_pickle'] is not False]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f'{file}: {name} is not the list of tensors that torch.export writes') from error
    if pickled:
        raise ValueError(f'{file}: {name} wants {pickled[0]} unpickled, which could execute code; it is not loaded')
