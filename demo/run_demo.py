"""Train a small SparX-Mamba Mask R-CNN on drawn shapes, test it on others and draw its predictions.

The commands are shown, and can be run on their own. All files are written to work_dirs/demo
under the current directory. The demo ends with an error if the mask AP is below the expected one.
"""
# This is a command for people: it prints.
# ruff: noqa: T201

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / 'configs/detection/mask_rcnn_sparx_shapes.py'
OUT = Path('work_dirs/demo')  # the config looks for the data there, too
EXPECTED_MASK_AP = 0.7

TRAINED = re.compile(r'Iter\(train\) \[ *(\d+)/(\d+)\].*eta: (?:\d+ days?, )?(\S+).* loss: (\S+)')
VALIDATED = re.compile(r'Iter\(val\).*coco/bbox_mAP: (\S+).*coco/segm_mAP: (\S+)')
TESTING = re.compile(r'Iter\(test\) \[ *(\d+)/(\d+)\] +eta')
DRAWN = re.compile(r'^(?:train|val): \d+ of \d+ images')


def progress(line: str) -> str | None:
    """The part of a log line that is useful to a new user; None for other lines."""
    if match := TRAINED.search(line):
        step, steps, left, loss = match.groups()
        return f'step {step:>4} of {steps}   loss {float(loss):.2f}   left {left}'
    if match := VALIDATED.search(line):
        return 'validation: box AP {}, mask AP {}'.format(*match.groups())
    if match := TESTING.search(line):
        return 'batch {} of {}'.format(*match.groups())
    if match := DRAWN.search(line):
        return match.group()
    return None


def run(title: str, script: str, *arguments: object) -> float:
    """Run a command, shown, with its whole output in a log and its progress on the terminal.

    Returns:
        The time it took, in seconds.

    Raises:
        SystemExit: it failed; the end of its output is shown.
    """
    command = [os.path.relpath(ROOT / script), *map(str, arguments)]
    log = OUT / 'logs' / f'{Path(script).stem}.txt'
    log.parent.mkdir(parents=True, exist_ok=True)
    print(f'\n== {title} (all output: {log})\n$ python {shlex.join(command)}', flush=True)
    # There is one thread: two are only a little faster on two idle cores (0.44 s per step against 0.55 s), and half as
    # fast if one of the cores has other work (1.1 s against 0.56 s), since they wait for each other.
    environment = {'OMP_NUM_THREADS': '1', **os.environ, 'PYTHONUNBUFFERED': '1'}
    start = time.monotonic()
    with (
        log.open('w+') as file,
        subprocess.Popen(
            [sys.executable, *command],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors='replace',
        ) as process,
    ):
        try:
            for line in process.stdout:
                file.write(line)
                if (shown := progress(line)) is not None:
                    print(f'  [{time.monotonic() - start:4.0f} s] {shown}', flush=True)
        except KeyboardInterrupt:
            # Ctrl-C reaches the command too, which may need a moment to end.
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
            raise
        if process.wait():
            file.seek(0)
            end = ''.join(file.readlines()[-25:])
            raise SystemExit(f'{end}\n{title} failed (exit status {process.returncode}); its output ends above')
    return time.monotonic() - start


def newest(pattern: str) -> Path:
    return max(OUT.glob(pattern), key=lambda path: path.stat().st_mtime_ns)


def montage(pairs: Path, out: Path, count: int = 6) -> None:
    """Put the first pairs of ground truth and prediction together."""
    images = [Image.open(path) for path in sorted(pairs.iterdir())[:count]]
    margin, columns = 8, 3
    width, height = (round(0.8 * side) for side in images[0].size)
    across, down = width + margin, height + margin
    rows = -(-len(images) // columns)
    sheet = Image.new('RGB', (min(columns, len(images)) * across + margin, rows * down + margin), 'white')
    for i, image in enumerate(images):
        x, y = margin + i % columns * across, margin + i // columns * down
        sheet.paste(image.resize((width, height), Image.Resampling.LANCZOS), (x, y))
    # A palette makes the file, whose noise compresses badly, a quarter of its size.
    palette = sheet.quantize(method=Image.Quantize.FASTOCTREE)
    sheet.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG).save(out, optimize=True)


def demo(args: argparse.Namespace) -> float:
    """All phases and the summary; returns the mask AP."""
    start = time.monotonic()
    config, pairs = os.path.relpath(CONFIG), OUT / 'predictions'
    options = ['--cfg-options', *args.cfg_options] if args.cfg_options else []
    counts = ('--train', args.train, '--val', args.val)
    times = {'drawing': run('Draw the images', 'demo/make_shapes.py', OUT / 'data', *counts, '--force')}
    times['training'] = run('Train', 'tools/train.py', config, '--work-dir', OUT / 'train', *options)
    checkpoint = (OUT / 'train' / 'last_checkpoint').read_text().strip()
    # mmdet takes a relative --show-dir as one below the work directory.
    times['test'] = run(
        'Test on images of other seeds', 'tools/test.py', config, os.path.relpath(checkpoint),
        '--work-dir', OUT / 'test', '--show-dir', pairs.resolve(), *options,
    )  # fmt: skip
    times['curve'] = run(
        'Plot the curves', 'tools/analysis_tools/plot_curves.py', OUT / 'train', '--out', OUT / 'curve.png'
    )
    montage(pairs, OUT / 'predictions.png')
    metrics = json.loads(newest('test/*/*.json').read_text())
    box_ap, mask_ap = metrics['coco/bbox_mAP'], metrics['coco/segm_mAP']
    print(
        f'\n== Done in {(time.monotonic() - start) / 60:.1f} min '
        f'({", ".join(f"{name} {seconds:.0f} s" for name, seconds in times.items())})\n'
        f'box AP {box_ap:.3f}, mask AP {mask_ap:.3f} (COCO, IoU 0.5:0.95) on {args.val} images of other seeds\n'
        f'ground truth | prediction: {OUT / "predictions.png"}, all {args.val} in {pairs}\n'
        f'loss and AP:               {OUT / "curve.png"}\n'
        f'network:                   {os.path.relpath(checkpoint)}'
    )
    return mask_ap


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument('--train', type=int, default=2400, metavar='N', help='training images (default: 2400)')
    parser.add_argument('--val', type=int, default=120, metavar='N', help='test images (default: 120)')
    parser.add_argument(
        '--expect', type=float, default=EXPECTED_MASK_AP, metavar='AP', help='required mask AP (default: %(default)s)'
    )
    parser.add_argument('--cfg-options', nargs='+', metavar='KEY=VALUE', help='as for tools/train.py')
    args = parser.parse_args()
    try:
        mask_ap = demo(args)
    except KeyboardInterrupt:
        print(f'\nStopped. What was done so far is in {OUT}; the next run starts from scratch.')
        return 130
    if mask_ap < args.expect:
        print(f'\nThe mask AP {mask_ap:.3f} is below the {args.expect} that this demo should reach.', file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
