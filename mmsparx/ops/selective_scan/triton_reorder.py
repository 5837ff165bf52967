"""The Triton kernels between a map and its four sequences. Imports triton: `triton_backend` does so late.

A program has a tile of CHANNELS x ROWS x COLUMNS pixels of one batch entry, and transposes it in shared memory: so
neighbouring lanes have neighbouring positions both by rows and by columns. Sizes and strides come as in
`triton_kernels`, in units of ALIGN elements, none compiled in; here ALIGN divides both sides of the map, too.

Tiles are one-dimensional wherever memory is accessed: of more dimensions Triton gives lanes to whichever it sorts
first, which for a sequence in reverse is the channels.
"""

import triton
import triton.language as tl

SIZES = ['length', 'height', 'width', 'channels', 'x_batch', 'x_row']


@triton.jit
def _place(length, height, width, channels, CHANNELS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """batch entry, first channel, first row and first column of this program; these two as wide as positions are."""
    across = (width + COLUMNS - 1) // COLUMNS
    down = (height + ROWS - 1) // ROWS
    blocks = (channels + CHANNELS - 1) // CHANNELS
    program = tl.program_id(0)
    column = program % across * COLUMNS
    row = program // across % down * ROWS
    program = program // across // down
    return (program // blocks).to(tl.int64), program % blocks * CHANNELS, row.to(length.dtype), column.to(length.dtype)


@triton.jit
def _pixels(
    channel,
    outer,
    inner,
    length,
    channels,
    outer_side,
    inner_side,
    CHANNELS: tl.constexpr,
    OUTER: tl.constexpr,
    INNER: tl.constexpr,
    ALIGN: tl.constexpr,
):
    """Channels and positions of a tile's pixels, from its first one's; inner: what a sequence runs along.

    Returns channels, positions in the sequence, those in its reverse, and which pixels there are. In the reverse the
    ALIGN neighbours of a group keep their order, for values that are `_turned`.
    """
    i = tl.arange(0, CHANNELS * OUTER * INNER)
    channel += i // (OUTER * INNER)
    outer += i // INNER % OUTER
    inner += i // ALIGN * ALIGN - i // INNER * INNER  # of the group: Triton sees that it is the same for all of it
    inside = (channel < channels) & (outer < outer_side) & (inner < inner_side)
    group = outer * inner_side + inner
    return channel.to(tl.int64), group + i % ALIGN, length - ALIGN - group + i % ALIGN, inside


@triton.jit
def _turned(x, ALIGN: tl.constexpr):
    """Each group of ALIGN neighbours in reverse."""
    if ALIGN > 1:
        x = tl.reshape(tl.flip(tl.reshape(x, (x.shape[0] // ALIGN, ALIGN)), 1), (x.shape[0],))
    return x


@triton.jit
def _transposed(x, CHANNELS: tl.constexpr, OUTER: tl.constexpr, INNER: tl.constexpr):
    """Transpose from the order (CHANNELS, OUTER, INNER) to (CHANNELS, INNER, OUTER)."""
    return tl.reshape(tl.permute(tl.reshape(x, (CHANNELS, OUTER, INNER)), (0, 2, 1)), (CHANNELS * OUTER * INNER,))


@triton.jit(do_not_specialize=SIZES)
def map_to_sequences(
    x,
    out,
    length,
    height,
    width,
    channels,
    x_batch,
    x_row,
    ALIGN: tl.constexpr,
    CHANNELS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """x (b, D, L), a map by rows -> out (b, 4, D, L)."""
    length, height, width = length * ALIGN, height * ALIGN, width * ALIGN
    batch, first, row, column = _place(length, height, width, channels, CHANNELS, ROWS, COLUMNS)
    direction = channels.to(tl.int64) * length
    x += batch * x_batch * ALIGN
    out += batch * 4 * direction
    channel, ahead, back, inside = _pixels(
        first, row, column, length, channels, height, width, CHANNELS, ROWS, COLUMNS, ALIGN
    )
    by_rows = tl.load(x + (channel * x_row * ALIGN + ahead), mask=inside)
    tl.store(out + (channel * length + ahead), by_rows, mask=inside)
    tl.store(out + 2 * direction + (channel * length + back), _turned(by_rows, ALIGN), mask=inside)
    channel, ahead, back, inside = _pixels(
        first, column, row, length, channels, width, height, CHANNELS, COLUMNS, ROWS, ALIGN
    )
    by_columns = _transposed(by_rows, CHANNELS, ROWS, COLUMNS)
    tl.store(out + direction + (channel * length + ahead), by_columns, mask=inside)
    tl.store(out + 3 * direction + (channel * length + back), _turned(by_columns, ALIGN), mask=inside)


@triton.jit(do_not_specialize=SIZES)
def sum_of_sequences(
    y,
    out,
    length,
    height,
    width,
    channels,
    ALIGN: tl.constexpr,
    CHANNELS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """y (b, 4, D, L) -> out (b, D, L), a map by rows."""
    exact: tl.constexpr = tl.float64 if y.dtype.element_ty == tl.float64 else tl.float32
    length, height, width = length * ALIGN, height * ALIGN, width * ALIGN
    batch, first, row, column = _place(length, height, width, channels, CHANNELS, ROWS, COLUMNS)
    direction = channels.to(tl.int64) * length
    y += batch * 4 * direction
    out += batch * direction
    channel, ahead, back, inside = _pixels(
        first, column, row, length, channels, width, height, CHANNELS, COLUMNS, ROWS, ALIGN
    )
    by_columns = tl.load(y + direction + (channel * length + ahead), mask=inside).to(exact)
    by_columns += _turned(tl.load(y + 3 * direction + (channel * length + back), mask=inside), ALIGN).to(exact)
    channel, ahead, back, inside = _pixels(
        first, row, column, length, channels, height, width, CHANNELS, ROWS, COLUMNS, ALIGN
    )
    by_rows = tl.load(y + (channel * length + ahead), mask=inside).to(exact)
    by_rows += _turned(tl.load(y + 2 * direction + (channel * length + back), mask=inside), ALIGN).to(exact)
    total = by_rows + _transposed(by_columns, CHANNELS, COLUMNS, ROWS)
    tl.store(out + (channel * length + ahead), total.to(out.dtype.element_ty), mask=inside)
