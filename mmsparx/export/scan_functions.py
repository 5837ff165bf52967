"""The scans as ONNX functions of standard operators, which a file carries with it.

A sequence is cut into chunks: the rows (columns) of a map, or 64 positions. With h = a h + b at each position, an ONNX
`Scan` goes through all chunks side by side, from the state 0, and keeps the states and the products of a; a second one
goes from chunk to chunk and gives the state that enters each of them; one product and one sum join the two. That makes
W + H steps of a map's W H, and the products are of numbers in (0, 1), which do not overflow. Reverse directions are
those of `Scan` itself: nothing is flipped.

A runtime that has custom operators of the functions' names runs these instead.
"""

from collections.abc import Sequence

from onnx import FunctionProto, GraphProto, TensorProto, helper

from mmsparx.export.scan_names import DOMAIN, MAPS, SEQUENCES

OPSET = 18
CHUNK = 64


class _Nodes:
    """Nodes of a function, in order; values are named by their number."""

    def __init__(self):
        self.nodes = []
        self.count = 0

    def name(self) -> str:
        self.count += 1
        return f'v{self.count}'

    def __call__(self, kind: str, *inputs: str, outputs: int = 1, to: str | None = None, **attributes):
        """Add a node; returns the name of its output, or a list of several."""
        names = [to or self.name() for _ in range(outputs)]
        self.nodes.append(helper.make_node(kind, inputs, names, **attributes))
        return names[0] if outputs == 1 else names

    def integers(self, *values: int) -> str:
        return self('Constant', value_ints=list(values))

    def number(self, value: float) -> str:
        return self('Constant', value_float=value)

    def filled(self, shape: str, value: float) -> str:
        return self('ConstantOfShape', shape, value=helper.make_tensor('value', TensorProto.FLOAT, [1], [value]))

    def sizes(self, x: str, *axes: int) -> list[str]:
        """The sizes of some axes, each as a tensor of one number."""
        shape = self('Shape', x)
        return [self('Gather', shape, self.integers(axis)) for axis in axes]

    def reshape(self, x: str, *sizes: str) -> str:
        return self('Reshape', x, self('Concat', *sizes, axis=0))

    def function(self, name: str, inputs: Sequence[str], output: str) -> FunctionProto:
        return helper.make_function(DOMAIN, name, list(inputs), [output], self.nodes, [helper.make_opsetid('', OPSET)])


def cross_scan(one_state: bool) -> FunctionProto:
    """SS2DScan: the scans of a map along four directions, summed.

    y = SS2DScan(x, parts, weight, bias, A, D), all float32: x (b, C, H, W); parts (b, 4 (R + 2 n), H, W), for each
    direction the step, B and C, in the order of the image; weight (4, C, R) and bias (4, C), of the step; A (4 C, n);
    D (4 C,). y is of x's shape. See `mmsparx.ops.cross_selective_scan` for what it computes.

    Args:
        one_state: Whether n is 1 in all nodes of the file, for which the function is shorter.
    """
    op = _Nodes()
    batch, channels, height, width = op.sizes('x', 0, 1, 2, 3)
    (rank,), (states,) = op.sizes('weight', 2), op.sizes('A', 1)
    one, four, rest = op.integers(1), op.integers(4), op.integers(-1)
    length = op('Mul', height, width)
    parts = op.reshape('parts', batch, four, rest, length)
    step, B, C = op('Split', parts, op('Concat', rank, states, states, axis=0), outputs=3, axis=2)
    raw = op('Add', op('MatMul', 'weight', step), op('Unsqueeze', 'bias', rest))  # (b, 4, C, L)
    x = op.reshape('x', batch, one, channels, length)
    A = op.reshape('A', four, channels, states)
    decay, drive = _recurrence(op, raw, x, A, B, one_state)
    inner = op('Mul', channels, states)
    maps = [op.reshape(value, batch, four, inner, height, width) for value in (decay, drive)]
    maps.append(op.reshape(C, batch, four, states, height, width))
    # (decay, drive, C) by direction k, each (b, 1, ..., H, W).
    directions = list(zip(*(op('Split', value, outputs=4, axis=1, num_outputs=4) for value in maps), strict=True))
    sums = []
    # Rows are the chunks of directions 0 and 2, columns those of 1 and 3.
    for first, chunks, to_time, back in (
        (0, height, (4, 0, 1, 2, 3), (1, 2, 3, 0)),
        (1, width, (3, 0, 1, 2, 4), (1, 2, 0, 3)),
    ):
        outputs = []
        for k in (first, first + 2):
            values = [op('Transpose', value, perm=to_time) for value in directions[k]]
            states_of = _states(op, *values[:2], batch, inner, chunks, reverse=k >= 2)
            outputs.append(_output(op, states_of, values[2], channels, states, batch, chunks, one_state))
        sums.append(op('Transpose', op('Add', *outputs), perm=back))  # (b, C, H, W)
    skip = op('ReduceSum', op.reshape('D', four, channels), op.integers(0), keepdims=0)
    y = op('Add', *sums)
    op('Add', y, op('Mul', 'x', op('Unsqueeze', skip, op.integers(1, 2))), to='y')
    return op.function(MAPS, ('x', 'parts', 'weight', 'bias', 'A', 'D'), 'y')


def sequence_scan(one_state: bool) -> FunctionProto:
    """SelectiveScan: the scan of sequences, with softplus.

    y = SelectiveScan(u, delta, A, B, C, D, bias), all float32: u and delta (b, d, L); A (d, n); B and C (b, 1, n, L);
    D and bias (d,). y is of u's shape. See `mmsparx.ops.selective_scan` for what it computes.

    Args:
        one_state: Whether n is 1 in all nodes of the file, for which the function is shorter.
    """
    op = _Nodes()
    batch, channels, length = op.sizes('u', 0, 1, 2)
    (states,) = op.sizes('A', 1)
    one, rest, chunk = op.integers(1), op.integers(-1), op.integers(CHUNK)
    chunks = op('Div', op('Add', length, op.integers(CHUNK - 1)), chunk)
    missing = op('Sub', op('Mul', chunks, chunk), length)
    pads = op('Concat', op.integers(0), missing, axis=0)

    def padded(x: str) -> str:  # a position does not depend on later ones
        return op('Pad', x, pads, '', rest)

    def whole(x: str, rows: str) -> str:
        return op.reshape(padded(x), batch, one, rows, rest)

    u, delta, B, C = whole('u', channels), whole('delta', channels), whole('B', states), whole('C', states)
    raw = op('Add', delta, op('Unsqueeze', 'bias', rest))
    decay, drive = _recurrence(op, raw, u, op('Unsqueeze', 'A', op.integers(0)), B, one_state)
    inner = op('Mul', channels, states)
    values = [
        op('Transpose', op.reshape(value, batch, one, rows, chunks, chunk), perm=(4, 0, 1, 2, 3))
        for value, rows in ((decay, inner), (drive, inner), (C, states))
    ]
    states_of = _states(op, *values[:2], batch, inner, chunks, reverse=False)
    y = op(
        'Transpose', _output(op, states_of, values[2], channels, states, batch, chunks, one_state), perm=(1, 2, 3, 0)
    )
    y = op.reshape(y, batch, channels, rest)
    y = op('Slice', y, op.integers(0), length, rest)
    op('Add', y, op('Mul', 'u', op('Unsqueeze', 'D', rest)), to='y')
    return op.function(SEQUENCES, ('u', 'delta', 'A', 'B', 'C', 'D', 'bias'), 'y')


def _recurrence(op: _Nodes, raw: str, x: str, A: str, B: str, one_state: bool) -> tuple[str, str]:
    """Decay and drive of each position: (b, k, d, L), or (b, k, d, n, L) with several states.

    raw (b, k, d, L), the step before softplus; x (b, 1, d, L); A (k, d, n); B (b, k, n, L).
    """
    # softplus, as -log(sigmoid(-x)): onnxruntime's own is several times slower, and no more exact.
    step = op('Neg', op('Log', op('Sigmoid', op('Neg', raw))))
    if one_state:
        return op('Exp', op('Mul', step, A)), op('Mul', op('Mul', step, x), B)
    axis = op.integers(3)
    decay = op('Exp', op('Mul', op('Unsqueeze', step, axis), op('Unsqueeze', A, op.integers(-1))))
    return decay, op('Mul', op('Unsqueeze', op('Mul', step, x), axis), op('Unsqueeze', B, op.integers(2)))


def _states(op: _Nodes, decay: str, drive: str, batch: str, inner: str, chunks: str, reverse: bool) -> str:
    """The states at all positions, from decay and drive (T, b, 1, d n, chunks): the same shape."""
    one, direction = op.integers(1), [int(reverse)] * 2
    shape = op('Concat', batch, one, inner, chunks, axis=0)
    last, product, within, products = op(
        'Scan',
        op.filled(shape, 0.0),
        op.filled(shape, 1.0),
        decay,
        drive,
        outputs=4,
        body=_within_chunks(),
        num_scan_inputs=2,
        scan_input_directions=direction,
        scan_output_directions=direction,
    )
    _, entering = op(
        'Scan',
        op.filled(op('Concat', batch, one, inner, axis=0), 0.0),
        product,
        last,
        outputs=2,
        body=_across_chunks(),
        num_scan_inputs=2,
        scan_input_axes=[3, 3],
        scan_input_directions=direction,
        scan_output_axes=[3],
        scan_output_directions=direction[:1],
    )
    return op('Add', within, op('Mul', products, entering))


def _output(op: _Nodes, h: str, C: str, channels: str, states: str, batch: str, chunks: str, one_state: bool) -> str:
    """(T, b, d, chunks): the sums over states of h (T, b, 1, d n, chunks) times C (T, b, 1, n, chunks)."""
    if one_state:
        return op('Squeeze', op('Mul', h, C), op.integers(2))
    h = op.reshape(h, op.integers(-1), batch, channels, states, chunks)
    return op('ReduceSum', op('Mul', h, C), op.integers(3), keepdims=0)


def _within_chunks() -> GraphProto:
    """h, p, a, b -> a h + b and a p, as states and as outputs."""
    nodes = [
        helper.make_node('Mul', ['h', 'a'], ['ah']),
        helper.make_node('Add', ['ah', 'b'], ['next_h']),
        helper.make_node('Mul', ['p', 'a'], ['next_p']),
        helper.make_node('Identity', ['next_h'], ['out_h']),
        helper.make_node('Identity', ['next_p'], ['out_p']),
    ]
    return _graph('within_chunks', nodes, ('h', 'p', 'a', 'b'), ('next_h', 'next_p', 'out_h', 'out_p'))


def _across_chunks() -> GraphProto:
    """h, p, last -> p h + last as the state, and the h that enters as the output."""
    nodes = [
        helper.make_node('Mul', ['h', 'p'], ['ph']),
        helper.make_node('Add', ['ph', 'last'], ['next_h']),
        helper.make_node('Identity', ['h'], ['entering']),
    ]
    return _graph('across_chunks', nodes, ('h', 'p', 'last'), ('next_h', 'entering'))


def _graph(name: str, nodes: list, inputs: Sequence[str], outputs: Sequence[str]) -> GraphProto:
    def of(names: Sequence[str]) -> list:
        return [helper.make_tensor_value_info(each, TensorProto.FLOAT, None) for each in names]

    return helper.make_graph(nodes, name, of(inputs), of(outputs))
