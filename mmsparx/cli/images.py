"""Images of a folder, for commands that go through them."""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from mmsparx.cli.progress import shown

SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp', '.ppm')
# Names of unreadable files that a message lists.
_LISTED = 5


@dataclass(frozen=True)
class Images:
    """Images that were chosen from a folder.

    Attributes:
        folder: Folder that they are in.
        paths: Files that can be read, in the order in which they were drawn.
        unreadable: Files that were drawn and cannot be read.
    """

    folder: Path
    paths: list[Path]
    unreadable: list[Path]

    @property
    def report(self) -> str | None:
        """A sentence that names the files that cannot be read; None without any."""
        if not self.unreadable:
            return None
        return passed_over([path.relative_to(self.folder).as_posix() for path in self.unreadable])

    def batches(self, prepare: Callable[[Image.Image], Tensor], size: int, text: str) -> Iterator[Tensor]:
        """Batches of inputs, (size, C, H, W), the last one of what is left; with a progress bar.

        Args:
            prepare: Function of an RGB image, which gives inputs (C, H, W) of one size.
            size: Number of images in a batch.
            text: Label of the progress bar.
        """
        paths = shown(self.paths, text)
        while batch := [prepare(read_image(path)) for path in islice(paths, size)]:
            yield torch.stack(batch)


def passed_over(names: Sequence[str], why: str = 'cannot be read') -> str:
    """A clause that counts images that are passed over, and names the first of them.

    Args:
        names: Names of the images, at least one.
        why: Reason why they cannot be used.
    """
    listed = ', '.join(names[:_LISTED])
    more = f' and {len(names) - _LISTED} more' if len(names) > _LISTED else ''
    counted = '1 image' if len(names) == 1 else f'{len(names)} images'
    return f'{counted} {why} and {"was" if len(names) == 1 else "were"} passed over: {listed}{more}'


def choose_images(folder: str | Path, count: int | None = None, seed: int = 0, shuffled: bool = False) -> Images:
    """Draw images from a folder and its subfolders, and see which can be read.

    Args:
        folder: Folder to look in.
        count: Number of images that can be read; all of them for None, or where there are fewer.
        seed: Seed of the choice, where a part is taken. The choice is the same wherever the folder lies.
        shuffled: Whether all of them are in a random order, too, instead of that of their paths.

    Raises:
        FileNotFoundError: There is no such folder, or no image in it.
        ValueError: None of the images can be read.
    """
    paths = find_images(folder)
    if shuffled or (count is not None and count < len(paths)):
        random.Random(seed).shuffle(paths)
    wanted, found, unreadable = count or len(paths), [], []
    for path in shown(paths, 'images'):
        if len(found) == wanted:
            break
        try:
            read_image(path)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):  # for damaged files
            unreadable.append(path)
        else:
            found.append(path)
    if not found:
        raise ValueError(f'{folder}: none of its {len(unreadable)} images can be read, such as {unreadable[0]}')
    return Images(Path(folder), found, unreadable)


def find_images(folder: str | Path) -> list[Path]:
    """The image files of a folder and its subfolders, by their paths.

    Raises:
        FileNotFoundError: There is no such folder, or no image in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f'no folder {folder} to read images from')
    paths = sorted(path for path in folder.rglob('*') if path.suffix.lower() in SUFFIXES and path.is_file())
    if not paths:
        raise FileNotFoundError(f'no image in {folder}; known kinds: {", ".join(SUFFIXES)}')
    return paths


def read_image(path: str | Path) -> Image.Image:
    """An image file in RGB, turned as its camera was held; of 16 bits the upper 8 are kept, as OpenCV does.

    Raises:
        OSError, ValueError, SyntaxError, PIL.Image.DecompressionBombError: It cannot be read.
    """
    with Image.open(path) as image:
        upright = ImageOps.exif_transpose(image)
        if upright.mode.startswith('I'):  # grey of 16 bits, which Pillow would cut off at 255
            upright = Image.fromarray((np.asarray(upright) >> 8).clip(0, 255).astype(np.uint8))
        return upright.convert('RGB')
