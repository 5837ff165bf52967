"""Files that the analyses write, and the tables in them."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from mmsparx.engine.outputs import check_outside, check_writable


def prepare_folder(out: str | os.PathLike, images: str | os.PathLike | None, names: Iterable[str], force: bool) -> Path:
    """Make the folder of the results, and fail where they would mix with images or take the place of other results.

    Args:
        out: Folder that results go to.
        images: Folder that images are read from; None without any.
        names: Names of the results.
        force: Whether results that are there may be written over.

    Raises:
        ValueError: One of the folders lies in the other.
        FileExistsError: A result is there, and `force` is not given.
        OSError: The folder cannot be written to.
    """
    out = Path(out)
    if images is not None:
        check_outside(out, images, '--out')
        check_outside(images, out, '--out')
    there = [name for name in names if os.path.lexists(out / name)]
    if there and not force:
        raise FileExistsError(
            f'{out} holds {", ".join(there)} already; name another folder by --out, or overwrite them with --force'
        )
    check_writable(out, '--out')
    return out


def table(rows: Sequence[Sequence[object]]) -> str:
    """Rows of cells, the first of which is the head, as Markdown with aligned columns."""
    texts = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    texts.insert(1, ['-' * width for width in widths])
    return '\n'.join(
        f'| {" | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))} |' for row in texts
    )
