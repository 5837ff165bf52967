"""Progress bars on stderr, which are quiet where nobody watches."""

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import track

T = TypeVar('T')


def shown(items: Iterable[T], text: str, total: int | None = None) -> Iterator[T]:
    """The items, with a progress bar while stderr is a terminal.

    Args:
        items: Items to iterate over.
        text: Label of the bar.
        total: Number of items, where `len(items)` does not say it.
    """
    console = Console(file=sys.stderr)
    yield from track(items, text, total, console=console, disable=not console.is_terminal, transient=True)
