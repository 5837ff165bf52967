"""Load the files of a folder by every loader in separate processes, and write the outcomes as JSON.

    python -m helpers.hostile_ways FOLDER OUT.json [--all-files WAY ...] [--step STEP]

The ways of `--all-files` are given all files, and the others every STEP-th, sorted by name. The way `unsafe` runs what
a file asks for; it is one of the former or is left out.

The processes are forks of one that has imported everything. Each has a limit of memory, and of time per file. A process
loads files until one of them ends it; with the way `unsafe` it loads only one. An outcome is {'file', 'way', 'ended'
('loaded', 'refused', 'killed', 'executed'), 'message'}.
"""

import argparse
import contextlib
import gc
import json
import os
import resource
import select
import signal
import tempfile
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch

MEMORY = 3 * 2**30  # bytes that a process may take beyond its initial size
SECONDS = 60
UNSAFE_SECONDS = 1  # limit of files that are known to run forever


def _ways(folder: Path) -> dict:
    """Functions that load a file, by the name of the way. Models and runners are made beforehand."""
    import mmengine.runner
    import timm.models
    from mmengine.config import Config
    from mmengine.hooks import CheckpointHook, EMAHook
    from mmengine.runner import CheckpointLoader, Runner
    from torch import nn

    import mmsparx.timm  # noqa: F401
    from helpers import SMALL_ARCH, runners
    from mmsparx.engine import SafeCheckpointHook
    from mmsparx.engine.nan_guard.rewind import last_good_checkpoint
    from mmsparx.engine.resume import resume_newest
    from mmsparx.models import SparXClassifier, SparXMamba, load_pretrained
    from mmsparx.timm.model import TimmClassifier
    from mmsparx.weights.convert import convert, publish

    backbone = SparXMamba(SMALL_ARCH)
    classifier = SparXClassifier(SparXMamba(SMALL_ARCH, out_indices=(3,), output_norm=False), 5)
    timms = TimmClassifier(SparXMamba, SMALL_ARCH, num_classes=5)

    def runner(*hooks) -> Runner:
        made = runners.make_runner(folder / 'run', runners.Net(), *hooks, data=runners.images())
        made._train_loop = made.build_train_loop(made._train_loop)
        made.optim_wrapper = made.build_optim_wrapper(made.optim_wrapper)
        return made

    plain, averaged = runner(), runner(EMAHook())
    averaged.call_hook('before_run')
    plain.register_hook(SafeCheckpointHook())

    def as_newest(path: Path, use) -> object:
        """Use the file as the only checkpoint of a run."""
        with tempfile.TemporaryDirectory() as work_dir:
            newest = Path(work_dir, 'iter_2.pth')
            newest.symlink_to(path.absolute())
            return use(work_dir)

    def resume(work_dir: str) -> None:
        resume_newest(Config(dict(work_dir=work_dir)))

    def go_back(work_dir: str) -> None:
        for hook in plain.hooks:
            if isinstance(hook, CheckpointHook):
                hook.out_dir = work_dir
        if last_good_checkpoint(plain) is None:
            raise RuntimeError('there is none')

    ways = {
        'unsafe': lambda path: torch.load(path, weights_only=False),
        'load_pretrained': lambda path: load_pretrained(backbone, path),
        'load_pretrained_of_a_whole_model': lambda path: load_pretrained(classifier, path),
        'init_cfg': lambda path: SparXMamba(
            SMALL_ARCH, init_cfg=dict(type='Pretrained', checkpoint=str(path))
        ).init_weights(),
        'init_cfg_of_another_network': lambda path: mmengine.model.PretrainedInit(str(path))(nn.Linear(2, 2)),
        'mmengine': lambda path: CheckpointLoader.load_checkpoint(str(path)),
        'mmengines_load_checkpoint': lambda path: mmengine.runner.load_checkpoint(classifier, str(path)),
        'load_from': lambda path: plain.load_checkpoint(str(path)),
        'resume': lambda path: plain.resume(str(path)),
        'resume_with_averaged_weights': lambda path: averaged.resume(str(path)),
        'resume_newest': lambda path: as_newest(path, resume),
        'rewind': lambda path: as_newest(path, go_back),
        'convert': lambda path: convert(path, folder / 'converted.pth', force=True),
        'publish': lambda path: publish(path, folder / 'published.pth', force=True),
        'timms_load_checkpoint': lambda path: timm.models.load_checkpoint(timms, str(path)),
        'timms_resume_checkpoint': lambda path: timm.models.resume_checkpoint(timms, str(path)),
        'timms_pretrained': lambda path: timms.load_pretrained(str(path)),
    }
    config = folder / 'config.py'
    config.write_text(
        "custom_imports = dict(imports=['mmsparx.models'])\n"
        f"backbone = dict(type='mmsparx.SparXMamba', arch={SMALL_ARCH}, out_indices=(3,), output_norm=False)\n"
        "head = dict(type='mmsparx.SparXClsHead', in_channels=32, num_classes=5)\n"
        "model = dict(type='mmpretrain.ImageClassifier', backbone=backbone, head=head)\n"
        'test_dataloader = dict(dataset=dict(pipeline=[]))\n'
    )
    with contextlib.suppress(ModuleNotFoundError):
        from mmdet.apis import DetInferencer

        ways['detector'] = lambda path: DetInferencer(model=str(config), weights=str(path), device='cpu')
        ways['detector_without_a_config'] = lambda path: DetInferencer(weights=str(path), device='cpu')
    with contextlib.suppress(ModuleNotFoundError):
        from mmseg.apis import MMSegInferencer

        ways['segmenter'] = lambda path: MMSegInferencer(model=str(config), weights=str(path), device='cpu')
        ways['segmenter_without_a_config'] = lambda path: MMSegInferencer(None, weights=str(path), device='cpu')
    with contextlib.suppress(ModuleNotFoundError):
        from mmpretrain.apis import ImageClassificationInferencer

        ways['classifier'] = lambda path: ImageClassificationInferencer(
            model=str(config), pretrained=str(path), device='cpu'
        )
    return ways


def _outcomes(use, paths: list[Path], seconds: float) -> Iterator[tuple[str, str]]:
    """Yield how each file ended, and the message. A process loads one file after the other until one ends it."""
    while paths:
        outcomes = _in_a_process(use, paths, seconds)
        yield from outcomes
        paths = paths[len(outcomes) :]


def _in_a_process(use, paths: list[Path], seconds: float) -> list[tuple[str, str]]:
    """Return the outcomes of the files that one process loaded, the last of which may have ended it."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.close(reading)
        os.setsid()  # its children are ended with it
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 1)
        os.dup2(silence, 2)
        taken = int(Path('/proc/self/statm').read_text().split()[0]) * os.sysconf('SC_PAGE_SIZE')
        resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY, taken + MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        with os.fdopen(writing, 'w', buffering=1) as pipe:
            for path in paths:
                print(json.dumps(_use(use, path)), file=pipe)
        os._exit(0)
    os.close(writing)
    said = b''
    while (ready := select.select([reading], [], [], seconds)[0]) and (more := os.read(reading, 1 << 16)):
        said += more
    if not ready:
        os.killpg(child, signal.SIGKILL)
    os.close(reading)
    status = os.waitpid(child, 0)[1]
    outcomes = [tuple(json.loads(line)) for line in said.splitlines()]
    if len(outcomes) < len(paths):
        ended = 'executed' if _executed(paths[0].parent) else 'killed'
        outcomes.append((ended, f'status {status}' if ready else 'the limit of time'))
    return outcomes


def _use(use, path: Path) -> tuple[str, str]:
    try:
        use(path)
    except MemoryError:
        said = 'killed', 'the limit of memory'
    except BaseException as error:
        said = 'refused', f'{type(error).__name__}: {error}'
        if not isinstance(error, (RuntimeError, ValueError, SystemExit)):
            said = said[0], f'{said[1]}\n{traceback.format_exc()}'
    else:
        said = 'loaded', ''
    return ('executed', said[1]) if _executed(path.parent) else said


def _executed(folder: Path) -> bool:
    """Whether a file was executed and left a marker, which is removed."""
    marker = folder / 'executed'
    left = marker.exists()
    marker.unlink(missing_ok=True)
    return left


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument('files', type=Path)
    parser.add_argument('out', type=Path)
    parser.add_argument('--all-files', nargs='*', default=[], metavar='WAY')
    parser.add_argument('--step', type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(1)  # after a fork other threads are gone, and torch would wait for them
    paths = sorted(args.files.iterdir())
    outcomes = []
    with tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter('ignore')
        ways = _ways(Path(folder))
        gc.freeze()  # a collection would copy what the processes share
        for way, use in ways.items():
            if way == 'unsafe' and way not in args.all_files:
                continue
            chosen = paths if way in args.all_files else paths[:: args.step]
            if way == 'unsafe':  # a file may change the process that loads it
                found = [_in_a_process(use, [path], UNSAFE_SECONDS)[0] for path in chosen]
            else:
                found = list(_outcomes(use, chosen, SECONDS))
            outcomes += [
                {'file': path.name, 'way': way, 'ended': ended, 'message': message}
                for path, (ended, message) in zip(chosen, found, strict=True)
            ]
    args.out.write_text(json.dumps(outcomes))


if __name__ == '__main__':
    main()
