"""The JSON file beside an exported file, read as data."""

import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmsparx.export.subjects import TASKS

EDGES = ('short', 'long', 'width', 'height')
INTERPOLATIONS = ('nearest', 'bilinear', 'bicubic', 'area', 'lanczos', 'box', 'hamming')
BACKENDS = ('cv2', 'pillow')
_LARGEST = 1 << 16  # of a side, in pixels


@dataclass(frozen=True)
class Description:
    """The processing before and after an exported file.

    Attributes:
        task: One of `mmsparx.export.subjects.TASKS`.
        mean, std: Mean and standard deviation per channel, for values from 0 to 255.
        bgr: Whether the file takes its channels in the order BGR.
        size: Height and width that the file takes; None for any.
        resize: Steps before, as dicts with a 'step'.
        classes: Names of the classes.
        palette: Colour of each class, RGB; None where it is not known.
        align_corners: Option by which a segmenter's logits are resized to the image.
        slide: Whether the model is tested in sliding windows.
        mask_threshold: Probability from which on a pixel is of a detector's object.
    """

    task: str
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    bgr: bool = False
    size: tuple[int, int] | None = None
    resize: tuple[Mapping, ...] = ()
    classes: tuple[str, ...] | None = None
    palette: tuple[tuple[int, ...], ...] | None = None
    align_corners: bool = False
    slide: bool = False
    mask_threshold: float = 0.5


def read_description(file: str | os.PathLike) -> Description:
    """The description beside an exported file.

    Raises:
        FileNotFoundError: There is none.
        ValueError: It is no description, or an entry is not what it has to be.
    """
    beside = Path(file).with_suffix('.json')
    if not beside.is_file():
        raise FileNotFoundError(f'no file {beside}, which `mmsparx export` writes beside {Path(file).name}')
    try:
        given = json.loads(beside.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f'{beside} is not JSON: {error}') from error
    if not isinstance(given, dict):
        raise ValueError(f'{beside}: expected an object, got {type(given).__name__}')

    def entry(key: str, valid: Callable[[Any], bool], expected: str, default: Any = None) -> Any:
        value = given.get(key)
        if value is None and key != 'task':
            return default
        if not valid(value):
            raise ValueError(f'{beside}: expected {key} to be {expected}, got {str(value)[:80]!r}')
        return value

    three = 'three numbers'
    classes = entry('classes', lambda x: isinstance(x, list) and x and all(isinstance(c, str) for c in x), 'names')
    palette = entry('palette', lambda x: _are_colours(x, classes), 'colours, one for each of the classes')
    size = entry('size', lambda x: _are_numbers(x, 2, _is_side), 'a height and a width')
    return Description(
        task=entry('task', lambda x: x in TASKS, f'one of {", ".join(TASKS)}'),
        mean=tuple(entry('mean', lambda x: _are_numbers(x, 3), three, Description.mean)),
        std=tuple(entry('std', lambda x: _are_numbers(x, 3, lambda n: n > 0), f'{three} above 0', Description.std)),
        bgr=entry('channels', lambda x: x in ('RGB', 'BGR'), 'RGB or BGR', 'RGB') == 'BGR',
        size=None if size is None else tuple(size),
        resize=tuple(
            entry('resize', lambda x: isinstance(x, list) and all(map(_is_step, x)), 'known steps of resizing', [])
        ),
        classes=None if classes is None else tuple(classes),
        palette=None if palette is None else tuple(map(tuple, palette)),
        align_corners=entry('align_corners', lambda x: isinstance(x, bool), 'true or false', False),
        slide=entry('slide', lambda x: isinstance(x, dict), 'an object') is not None,
        mask_threshold=entry('mask_threshold', lambda x: _is_number(x) and 0 <= x <= 1, 'from 0 to 1', 0.5),
    )


def _is_number(x: Any) -> bool:
    return isinstance(x, (int, float)) and not isinstance(x, bool) and math.isfinite(x)


def _is_side(x: Any) -> bool:
    return isinstance(x, int) and not isinstance(x, bool) and 1 <= x <= _LARGEST


def _are_numbers(x: Any, count: int, valid: Callable[[Any], bool] = lambda _: True) -> bool:
    return isinstance(x, list) and len(x) == count and all(_is_number(n) and valid(n) for n in x)


def _are_colours(x: Any, classes: list | None) -> bool:
    if not isinstance(x, list) or (classes is not None and len(x) != len(classes)):
        return False
    return all(_are_numbers(c, 3, lambda n: isinstance(n, int) and 0 <= n <= 255) for c in x)


def _is_step(x: Any) -> bool:
    if not isinstance(x, dict):
        return False
    kind = x.get('step')
    options = x.get('interpolation', 'bilinear') in INTERPOLATIONS and x.get('backend', 'cv2') in BACKENDS
    sizes = {
        'resize': lambda: _are_numbers(x.get('scale'), 2, _is_side) and isinstance(x.get('keep_ratio'), bool),
        'resize_edge': lambda: _is_side(x.get('scale')) and x.get('edge') in EDGES,
        'center_crop': lambda: _are_numbers(x.get('size'), 2, _is_side),
        'resize_to_multiple': lambda: _is_side(x.get('divisor')),
    }
    return options and isinstance(kind, str) and kind in sizes and sizes[kind]()
