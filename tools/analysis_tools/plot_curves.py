"""Plot the losses and the validation metrics that a training run logged, of any config."""

import argparse
import json
from pathlib import Path

import matplotlib

matplotlib.use('Agg')  # no display is needed to write a file
import matplotlib.pyplot as plt

HEADLINES = ('bbox_mAP', 'segm_mAP', 'mIoU', 'mAcc', 'top1', 'top5')
SMOOTHED_OVER = 0.05  # of a run's points


def scalars_file(run: Path) -> Path:
    """The log of scalars of a run.

    Args:
        run: Log file, or a work directory, whose newest run with a log is taken.

    Raises:
        FileNotFoundError: no log there.
    """
    if run.is_file():
        return run
    found = sorted(run.glob('**/vis_data/scalars.json'), key=lambda path: path.stat().st_mtime_ns)
    if not found:
        raise FileNotFoundError(
            f'no vis_data/scalars.json under {run}: expected the --work-dir of a training run, or the log itself'
        )
    return found[-1]


def read_scalars(path: Path) -> tuple[dict[str, list], dict[str, list]]:
    """(losses, metrics) by name, each a list of (step, value); steps are iterations.

    Raises:
        ValueError: not such a log, or one without a loss.
    """
    losses: dict[str, list] = {}
    metrics: dict[str, list] = {}
    trained = 0
    for number, line in enumerate(path.read_text().splitlines(), 1):
        try:
            record = json.loads(line)
            step = record['step']
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(
                f"{path}, line {number}: expected a JSON object with a 'step', got {line[:80]!r}"
            ) from error
        # mmengine logs training with its learning rate, and validation without.
        in_training = 'lr' in record
        # mmengine may count validations in epochs; training was logged just before.
        trained = step = step if in_training else max(step, trained)
        for name, value in record.items():
            if in_training and 'loss' in name:
                losses.setdefault(name, []).append((step, value))
            elif not in_training and name not in ('step', 'time', 'data_time'):
                metrics.setdefault(name, []).append((step, value))
    if not losses:
        raise ValueError(f'{path}: no training loss in it; is it the log of a test, or did training stop at once?')
    return losses, metrics


def choose_metrics(metrics: dict[str, list], names: list[str] | None) -> list[str]:
    """The names to plot: the requested ones, else the main metrics of each task, else all.

    Raises:
        ValueError: a name that was not logged.
    """
    if names is None:
        return [name for name in metrics if name.rsplit('/', 1)[-1] in HEADLINES] or list(metrics)
    if unknown := [name for name in names if name not in metrics]:
        raise ValueError(f'--metrics: {", ".join(unknown)} was not logged; the log has: {", ".join(metrics) or "none"}')
    return names


def _smooth(values: list[float]) -> list[float]:
    """An exponential moving average that starts unbiased; of a short run, the values themselves."""
    keep = 1 - 1 / max(1.0, SMOOTHED_OVER * len(values))
    smoothed, total, weight = [], 0.0, 0.0
    for value in values:
        total = keep * total + (1 - keep) * value
        weight = keep * weight + (1 - keep)
        smoothed.append(total / weight)
    return smoothed


def plot(losses: dict[str, list], metrics: dict[str, list], out: Path) -> None:
    """Write losses, and metrics if there are any, to an image file."""
    figure, axes = plt.subplots(1, 2 if metrics else 1, figsize=(9 if metrics else 5, 3.6), squeeze=False)
    left = axes[0, 0]
    for name, points in losses.items():
        steps, values = zip(*points, strict=True)
        if name == 'loss':
            left.plot(steps, values, color='black', alpha=0.25, linewidth=0.8)
            left.plot(steps, _smooth(values), color='black', linewidth=2, label='loss', zorder=3)
        else:
            left.plot(steps, _smooth(values), linewidth=1, label=name)
    left.set(title='training loss', ylim=(0, None))
    for name, points in metrics.items():
        steps, values = zip(*points, strict=True)
        axes[0, 1].plot(steps, values, marker='o', markersize=4, label=f'{name} ({values[-1]:.3g} at the end)')
    if metrics:
        axes[0, 1].set(title='validation', ylim=(0, None))
    for axis in axes.flat:
        axis.set_xlabel('step')
        axis.grid(alpha=0.3)
        axis.spines[['top', 'right']].set_visible(False)
        axis.legend(frameon=False, fontsize=8)
    figure.tight_layout()
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=110)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument('run', type=Path, help='work directory of a run, or its vis_data/scalars.json')
    parser.add_argument('--out', type=Path, help='image to write (default: curves.png beside the log)')
    parser.add_argument('--metrics', nargs='+', metavar='NAME', help='validation metrics, as coco/bbox_mAP_50')
    args = parser.parse_args()
    try:
        path = scalars_file(args.run)
        losses, metrics = read_scalars(path)
        chosen = {name: metrics[name] for name in choose_metrics(metrics, args.metrics)}
        out = args.out or path.with_name('curves.png')
        plot(losses, chosen, out)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    print(out)


if __name__ == '__main__':
    main()
