"""The paper's figures of a model, as a metafile has them and as they were printed."""

from collections.abc import Mapping
from dataclasses import dataclass

# Tables that print parameters to 0.1 M; the others print them to 1 M.
_TO_A_TENTH = {f'paper, Table {table}' for table in (4, 5, 10, 11)}


@dataclass(frozen=True)
class PaperFigure:
    """A figure as it was printed; `str` gives it back.

    Attributes:
        value: Value in millions of parameters, or in G multiply-adds.
        digits: Number of digits after the point.
    """

    value: float
    digits: int

    def __str__(self) -> str:
        return f'{self.value:.{self.digits}f}'

    def agrees(self, counted: float) -> bool:
        """Whether a count agrees to 1 % or to the printed digits, whichever is wider."""
        return abs(counted - self.value) <= max(0.01 * self.value, 0.5 * 10**-self.digits)


def paper_figures(model: Mapping) -> tuple[PaperFigure | None, PaperFigure | None]:
    """(parameters in M, GFLOPs) of a model of a metafile; None where there is none.

    GFLOPs are printed to 0.1 at 224x224, where they are few, and to 1 for dense prediction.
    """
    metadata = model['Metadata']
    params = flops = None
    if 'Parameters' in metadata:
        to_a_tenth = any(result['Source'] in _TO_A_TENTH for result in model['Results'])
        params = PaperFigure(metadata['Parameters'] / 1e6, 1 if to_a_tenth else 0)
    if 'FLOPs' in metadata:
        billions = metadata['FLOPs'] / 1e9
        flops = PaperFigure(billions, 1 if billions < 100 else 0)
    return params, flops
