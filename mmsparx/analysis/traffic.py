"""Operators that a pass runs, and bytes that they move: what binds most networks on a GPU, counted without one."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# They give memory, or another tensor over the same; views among them are known by their schema.
_MOVE_NOTHING = {
    *('aten.empty', 'aten.empty_like', 'aten.empty_strided', 'aten.new_empty', 'aten.new_empty_strided'),
    *('aten.detach', 'aten.alias', 'aten.lift_fresh', 'aten._unsafe_view', 'aten._reshape_alias'),
}


@dataclass
class Traffic:
    """The operators of a pass.

    Attributes:
        calls: Number of calls by operator, without views and allocations, which launch no kernel. A call may launch
            more than one: torch's convolution on a GPU, for example, adds its bias by another.
        bytes_moved: Bytes of the tensors that these calls take and return, by operator. What an operator keeps to
            itself, as partial sums, is not known, nor what it finds in a cache.
    """

    calls: Counter[str] = field(default_factory=Counter)
    bytes_moved: Counter[str] = field(default_factory=Counter)

    @property
    def total_calls(self) -> int:
        """Number of calls in all."""
        return self.calls.total()

    @property
    def total_bytes(self) -> int:
        """Bytes in all."""
        return self.bytes_moved.total()

    def __str__(self) -> str:
        rows = [f'{self.total_calls:6d} calls {self.total_bytes / 1e9:9.3f} GB']
        rows += [
            f'{self.calls[name]:6d}       {size / 1e9:9.3f} GB  {name}' for name, size in self.bytes_moved.most_common()
        ]
        return '\n'.join(rows)


def traffic(run: Callable[[], object]) -> Traffic:
    """Count what a function runs.

    Within torch's FakeTensorMode nothing is computed and no memory taken, so a pass of any size on any device is
    counted on any machine:

        with FakeTensorMode(), torch.device('cuda'):
            model = SparXMamba('tiny').eval()
            x = torch.empty(128, 3, 224, 224)
            print(traffic(lambda: model(x)))

    There torch.autocast('cuda') wants a GPU; `torch.set_autocast_enabled('cuda', True)` does not. A backward on 'cuda'
    wants one, too, so a training step is counted on the CPU, where it calls the same operators:

        with FakeTensorMode():
            model = SparXMamba('tiny')
            x = torch.empty(128, 3, 224, 224)

            def step():
                with torch.autocast('cpu', torch.bfloat16):
                    loss = model(x)[-1].float().mean()
                loss.backward()

            print(traffic(step))

    Args:
        run: Function that runs the pass.
    """
    with _Counting() as mode:
        run()
    return mode.found


class _Counting(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.found = Traffic()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        name = '.'.join(str(func).split('.')[:2])
        written = _tensors(out) or _changed(func, args)
        if written and not func.is_view and name not in _MOVE_NOTHING:
            self.found.calls[name] += 1
            self.found.bytes_moved[name] += sum(map(_bytes, (*_tensors((args, kwargs)), *written)))
        return out


def _tensors(tree: object) -> list[Tensor]:
    return [x for x in tree_leaves(tree) if isinstance(x, Tensor)]


def _changed(func: torch._ops.OpOverload, args: tuple) -> list[Tensor]:
    """Tensors that an operator without outputs changes in place, as an optimizer's operators do with lists."""
    given = zip(func._schema.arguments, args, strict=False)  # defaults are left out
    return _tensors([x for argument, x in given if argument.alias_info is not None and argument.alias_info.is_write])


def _bytes(x: Tensor) -> int:
    """Bytes of the elements that lie apart: an expanded dimension is read from a cache."""
    apart = [size for size, stride in zip(x.shape, x.stride(), strict=True) if stride or not size]
    return torch.Size(apart).numel() * x.element_size()
