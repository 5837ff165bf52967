"""The sparse cross-layer connections of SparX as data (Sec. 3.1 and 3.2); free of torch.

A stage's features are numbered as the network lists them: feature 0 is the stage's input and
feature i + 1 the output of layer i. The network follows the plan and decides nothing itself:

    features.append(layer(features[-1], *(features[j] for j in plan.sources(i))))

    >>> print(StagePlan(depth=7, stride=2, window=3))
    7 layers, S=2, M=3
      G 0 <- input
      . 1
      G 2 <- 1 0
      . 3
      G 4 <- 3 0 2
      . 5
      G 6 <- 5 0 2 4
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields


@dataclass(frozen=True)
class StagePlan:
    """Which layers of a stage are ganglion layers, and what each of them reads.

    Attributes:
        depth: number of layers.
        stride: S, the distance between ganglion layers, which are anchored on the last layer; None
            for a stage of normal layers.
        window: M, how many preceding ganglion layers a ganglion layer reads; None for all.
        first: the first layer that may be a ganglion layer, counted from 0.
    """

    depth: int
    stride: int | None = None
    window: int | None = None
    first: int = 0

    def __post_init__(self):
        for name in ('depth', 'stride', 'window'):
            value = getattr(self, name)
            if value is None and name != 'depth':
                continue
            if not isinstance(value, int) or value < 1:
                raise ValueError(f'StagePlan: expected {name} to be a whole number of at least 1, got {value!r}')
        if not isinstance(self.first, int) or not 0 <= self.first <= self.depth:
            raise ValueError(
                f'StagePlan: expected first to be a whole number from 0 to depth={self.depth}, got {self.first!r}'
            )

    @classmethod
    def of(cls, plan: 'StagePlan | Mapping') -> 'StagePlan':
        """A plan, or a config's dict of one."""
        if isinstance(plan, cls):
            return plan
        unknown = set(plan) - {field.name for field in fields(cls)}
        if unknown:
            known = ', '.join(field.name for field in fields(cls))
            raise ValueError(f'StagePlan: unknown option {", ".join(sorted(unknown))}; known ones: {known}')
        return cls(**plan)

    @property
    def ganglia(self) -> tuple[int, ...]:
        """The ganglion layers, counted from 0."""
        if self.stride is None:
            return ()
        return tuple(range(self.depth - 1, self.first - 1, -self.stride))[::-1]

    def sources(self, layer: int) -> tuple[int, ...]:
        """The features that a layer reads besides the one before it; none for a normal layer.

        In the order in which the published networks concatenate them: the stage's input (first
        ganglion layer only), the normal layers since the ganglion layer before, the last M ganglion
        layers, oldest first.
        """
        if layer not in self.ganglia:
            return ()
        earlier = [g for g in self.ganglia if g < layer]
        start = earlier[-1] + 1 if earlier else 0
        near = [] if earlier else [0]
        near += [i + 1 for i in range(start, layer)]
        far = earlier if self.window is None else earlier[-self.window :]
        return (*near, *(g + 1 for g in far))

    def __str__(self) -> str:
        window = 'all' if self.window is None else self.window
        lines = [f'{self.depth} layers' + (f', S={self.stride}, M={window}' if self.ganglia else '')]
        for layer in range(self.depth):
            sources = ' '.join('input' if j == 0 else str(j - 1) for j in self.sources(layer))
            lines.append(f'  G {layer} <- {sources}' if sources else f'  . {layer}')
        return '\n'.join(lines)
