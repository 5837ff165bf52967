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
    """The ganglion layers of a stage, and the features that each of them reads.

    Attributes:
        depth: Number of layers.
        stride: S, the distance between ganglion layers, which are anchored on the last layer; None
            for a stage of normal layers.
        window: M, how many preceding ganglion layers a ganglion layer reads; None for all.
        first: The first layer that may be a ganglion layer, counted from 0.
        dense: Whether a ganglion layer reads the stage's input and all layers before it, in the order input, normal
            layers, ganglion layers (the paper's DGC).
        input_in_window: Whether the stage's input counts as the oldest ganglion layer: later ganglion layers are
            handed it too, and it takes one of the M places.
    """

    depth: int
    stride: int | None = None
    window: int | None = None
    first: int = 0
    dense: bool = False
    input_in_window: bool = False

    def __post_init__(self):
        for name in ('depth', 'stride', 'window'):
            value = getattr(self, name)
            if value is None and name != 'depth':
                continue
            if not is_integer(value) or value < 1:
                raise ValueError(f'StagePlan: expected {name} to be an integer of at least 1, got {value!r}')
        if not is_integer(self.first) or not 0 <= self.first <= self.depth:
            raise ValueError(
                f'StagePlan: expected first to be an integer from 0 to depth={self.depth}, got {self.first!r}'
            )
        for name in ('dense', 'input_in_window'):
            if not isinstance(value := getattr(self, name), bool):
                raise ValueError(f'StagePlan: expected {name} to be True or False, got {value!r}')
        for name in ('window', 'dense', 'input_in_window'):
            if getattr(self, name) and self.stride is None:
                raise ValueError(
                    f'StagePlan: {name} says what ganglion layers read, and a stage without stride has none; '
                    f'set stride, or leave {name} out'
                )
        if self.dense and self.window is not None:
            raise ValueError(
                f'StagePlan: with dense a ganglion layer reads all layers before it, so window={self.window} would '
                'have no effect; leave one of the two out'
            )
        if self.dense and self.input_in_window:
            raise ValueError(
                'StagePlan: with dense every ganglion layer reads the input anyway, so input_in_window would have no '
                'effect; leave one of the two out'
            )

    @classmethod
    def of(cls, plan: 'StagePlan | Mapping') -> 'StagePlan':
        """A plan, or a config's dict of one.

        Raises:
            ValueError: Unknown or missing option.
        """
        if isinstance(plan, cls):
            return plan
        known = ', '.join(field.name for field in fields(cls))
        if not isinstance(plan, Mapping):
            raise ValueError(f'StagePlan: expected a dict of {known}, got {plan!r}')
        unknown = set(plan) - {field.name for field in fields(cls)}
        if unknown:
            raise ValueError(f'StagePlan: unknown option {", ".join(sorted(unknown))}; known ones: {known}')
        if 'depth' not in plan:
            raise ValueError(f'StagePlan: expected a depth, got {dict(plan)}')
        return cls(**plan)

    def as_dict(self) -> dict[str, int | bool | None]:
        """The fields as data for JSON, of which `of` makes the same plan; those of default values are left out."""
        values = ((field, getattr(self, field.name)) for field in fields(self))
        return {field.name: value for field, value in values if value != field.default}

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
        ganglia = self.ganglia
        if layer not in ganglia:
            return ()
        earlier = [g for g in ganglia if g < layer]
        if self.dense:
            return (0, *(i + 1 for i in range(layer) if i not in ganglia), *(g + 1 for g in earlier))
        if not earlier:
            return tuple(range(layer + 1))  # the input, and normal layers alone
        near = range(earlier[-1] + 2, layer + 1)
        far = [0] * self.input_in_window + [g + 1 for g in earlier]
        return (*near, *(far if self.window is None else far[-self.window :]))

    def __str__(self) -> str:
        lines = [f'{self.depth} layers{self.connections}']
        for layer in range(self.depth):
            sources = ' '.join('input' if j == 0 else str(j - 1) for j in self.sources(layer))
            lines.append(f'  G {layer} <- {sources}' if sources else f'  . {layer}')
        return '\n'.join(lines)

    @property
    def connections(self) -> str:
        """The options that say what ganglion layers read, for a title, as ', S=2, M=3'."""
        if not self.ganglia:
            return ''
        if self.dense:
            return f', S={self.stride}, dense'
        window = 'all' if self.window is None else self.window
        return f', S={self.stride}, M={window}' + (' with the input' if self.input_in_window else '')


def is_integer(value: object) -> bool:
    """Whether a value is an integer; Python's True and False are not meant."""
    return isinstance(value, int) and not isinstance(value, bool)
