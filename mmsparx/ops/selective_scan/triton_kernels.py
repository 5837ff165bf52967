"""The Triton kernels of the selective scan, forward and backward. Imports triton: `triton_backend` does so late.

A program has ROWS channels of one group and one batch entry, which share its B and C, and walks their positions
in tiles of POSITIONS; within a tile the recurrence h -> a h + b is `associative_scan` over pairs (a, b). States
are scanned one after the other over the same tile, so that u and delta are read and turned into steps once.

Lengths and strides come in units of ALIGN elements. They are never compiled in, but multiplied by that constant
they are known to be its multiples: enough for loads of 16 bytes, and for several neighbours in one thread.
Positions past the end have a = 1 and b = 0, which keeps the state: the last saved one is the final one.
"""

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)
LOG2_E_LOW = tl.constexpr(1.925963033500011e-08)  # the part below float32's precision
LN_2 = tl.constexpr(0.6931471805599453)

# No value of these is compiled in: neither 1 nor multiples of 16, which Triton would specialise for.
SIZES = [
    *('length', 'groups', 'channels', 'row_blocks', 'grad_batch', 'grad_row', 'u_batch', 'u_row'),
    *('delta_batch', 'delta_row', 'B_batch', 'B_group', 'B_state', 'C_batch', 'C_group', 'C_state'),
]


@triton.jit
def _exp(x):
    """e^x of x <= 0 to float32's last bits: exp2(x * log2(e)) alone would lose those of the product's rounding."""
    if x.dtype == tl.float64:
        e = tl.exp(x)
    else:
        power = x * LOG2_E
        rest = tl.fma(x, LOG2_E, -power) + x * LOG2_E_LOW
        e = tl.exp2(power)
        e += e * tl.where(power > -150.0, rest * LN_2, 0.0)  # at -inf the rest is NaN
    return e


@triton.jit
def _softplus(x):
    """log(1 + exp(x)) without a threshold, and its derivative. NaN comes through e."""
    e = _exp(-tl.abs(x))
    # log1p(e) = 2 atanh(s), as the series of s <= 1/3: right to the last bits however small e is.
    terms: tl.constexpr = 17 if x.dtype == tl.float64 else 8
    s = e / (2.0 + e)
    squared = s * s
    series = tl.full(x.shape, 1.0 / (2 * terms - 1), x.dtype)
    for i in tl.static_range(1, terms):
        series = series * squared + 1.0 / (2 * (terms - i) - 1)
    return tl.where(x > 0.0, x, 0.0) + 2.0 * s * series, tl.where(x >= 0.0, 1.0, e) / (1.0 + e)


@triton.jit
def _compose(a1, b1, a2, b2):
    """h -> a1 h + b1, then h -> a2 h + b2."""
    return a1 * a2, a2 * b1 + b2


@triton.jit
def _compose_with_kept(a1, b1, kept1, a2, b2, kept2):
    """`_compose` with `kept`: the part of b from earlier positions, without the last one's drive.

    So a_t h_{t-1} needs neither a shift nor h_t - drive_t, which would cancel.
    """
    earlier = a2 * b1
    return a1 * a2, earlier + b2, earlier + kept2


@triton.jit
def _compose_with_last(a1, b1, open1, sum1, a2, b2, open2, sum2):
    """`_compose` with `open` and `sum`: the same map without the last position's decay.

    Backwards in time, where b is what position t passes on, a_t dh_t, sum is dh_t itself.
    """
    return a1 * a2, a2 * b1 + b2, a1 * open2, open2 * b1 + sum2


@triton.jit
def _decayed(decay, carry):
    """decay * carry, and 0 where nothing is carried: the product of decays above 1 may be infinite."""
    return tl.where(carry == 0.0, 0.0, decay * carry)


@triton.jit
def _column(x, index, COLUMNS: tl.constexpr):
    """x[:, index]; a select, not a product, lest another column's NaN shows."""
    return tl.sum(tl.where((tl.arange(0, COLUMNS) == index)[None, :], x, 0.0), 1)


@triton.jit
def _with_column(x, index, value, COLUMNS: tl.constexpr):
    return tl.where((tl.arange(0, COLUMNS) == index)[None, :], value[:, None], x)


@triton.jit
def _from_later(a, direct, later, ROWS: tl.constexpr, POSITIONS: tl.constexpr, ALIGN: tl.constexpr):
    """dh_t = direct_t + a_{t+1} dh_{t+1}, and what the tile passes on; later: what the one behind it passes on.

    `associative_scan` with reverse=True shuffles every operand log2(32) times to turn it round, and back. Here
    neighbours that share a thread come first, turned round in registers, then these groups: fewer, and less of each.
    """
    GROUPS: tl.constexpr = POSITIONS // ALIGN
    a = tl.flip(tl.reshape(a, (ROWS, GROUPS, ALIGN)), 2)
    direct = tl.flip(tl.reshape(direct, (ROWS, GROUPS, ALIGN)), 2)
    decay, passed, open_decay, dh = tl.associative_scan(
        (a, a * direct, tl.full(a.shape, 1.0, a.dtype), direct), 2, _compose_with_last
    )
    ends = (tl.arange(0, ALIGN) == ALIGN - 1)[None, None, :]
    decay = tl.flip(tl.sum(tl.where(ends, decay, 0.0), 2), 1)
    passed = tl.flip(tl.sum(tl.where(ends, passed, 0.0), 2), 1)
    decay, passed, open_group, of_group = tl.associative_scan(
        (decay, passed, tl.full(decay.shape, 1.0, a.dtype), tl.zeros_like(decay)), 1, _compose_with_last
    )
    from_groups = tl.flip(of_group + _decayed(open_group, later[:, None]), 1)
    dh = tl.flip(dh + open_decay * from_groups[:, :, None], 2)
    return tl.reshape(dh, (ROWS, POSITIONS)), _column(passed + _decayed(decay, later[:, None]), GROUPS - 1, GROUPS)


@triton.jit
def _place(groups, channels, row_blocks, ROWS: tl.constexpr):
    """batch entry, group, rows (of all groups' channels) and which of them there are, of this program."""
    program = tl.program_id(0)
    sequence = program // row_blocks
    group = (sequence % groups).to(tl.int64)
    within = (program % row_blocks) * ROWS + tl.arange(0, ROWS)
    return (sequence // groups).to(tl.int64), group, group * channels + within, within < channels


@triton.jit
def _load(x, rows, positions, inside, dtype: tl.constexpr):
    """Rows (pointers), 0 where there are none, in the state's type."""
    return tl.load((x + rows)[:, None] + positions[None, :], mask=inside, other=0.0).to(dtype)


@triton.jit(do_not_specialize=SIZES)
def scan_forward(
    u,
    delta,
    A,
    B,
    C,
    D,
    delta_bias,
    out,
    states,
    length,
    groups,
    channels,
    row_blocks,
    u_batch,
    u_row,
    delta_batch,
    delta_row,
    B_batch,
    B_group,
    B_state,
    C_batch,
    C_group,
    C_state,
    N: tl.constexpr,
    PADDED_N: tl.constexpr,
    SOFTPLUS: tl.constexpr,
    CHUNK: tl.constexpr,
    ALIGN: tl.constexpr,
    ROWS: tl.constexpr,
    POSITIONS: tl.constexpr,
):
    CHUNKS: tl.constexpr = POSITIONS // CHUNK
    exact: tl.constexpr = A.dtype.element_ty
    batch, group, rows, valid = _place(groups, channels, row_blocks, ROWS)
    length = length * ALIGN
    row = batch * groups * channels + rows  # of contiguous (batch, dim, ...)
    u_rows = (batch * u_batch + rows * u_row) * ALIGN
    delta_rows = (batch * delta_batch + rows * delta_row) * ALIGN
    B += (batch * B_batch + group * B_group) * ALIGN
    C += (batch * C_batch + group * C_group) * ALIGN
    entries = row * ((length + CHUNK - 1) // CHUNK + 1)  # the first of each row's saved states
    of_state = tl.arange(0, PADDED_N)
    tl.store(
        (states + entries * N)[:, None] + of_state[None, :],
        tl.zeros((ROWS, PADDED_N), exact),
        mask=valid[:, None] & (of_state < N)[None, :],
    )
    carry = tl.zeros((ROWS, PADDED_N), exact)
    for start in range(0, length, POSITIONS):
        t = start + tl.arange(0, POSITIONS)
        within = t < length
        inside = valid[:, None] & within[None, :]
        x = _load(u, u_rows, t, inside, exact)
        step = _load(delta, delta_rows, t, inside, exact)
        if delta_bias is not None:
            step += tl.load(delta_bias + rows, mask=valid, other=0.0)[:, None]
        if SOFTPLUS:
            step, _ = _softplus(step)
        driven = tl.where(inside, step * x, 0.0)
        y = tl.zeros((ROWS, POSITIONS), exact)
        for n in range(N):
            rate = tl.load(A + rows * N + n, mask=valid, other=0.0) * LOG2_E
            B_n = tl.load(B + n * B_state.to(tl.int64) * ALIGN + t, mask=within, other=0.0).to(exact)
            C_n = tl.load(C + n * C_state.to(tl.int64) * ALIGN + t, mask=within, other=0.0).to(exact)
            a = tl.where(inside, tl.exp2(step * rate[:, None]), 1.0)
            # a * 0 is 0, or NaN for an infinite decay, which is not to vanish before an empty state.
            decay, h = tl.associative_scan((a, driven * B_n[None, :] + a * 0.0), 1, _compose)
            h += _decayed(decay, _column(carry, n, PADDED_N)[:, None])
            y += h * C_n[None, :]
            # A reduction over each chunk costs less than a masked store's address at every position.
            chunk = tl.arange(0, CHUNKS)
            of_chunk = tl.reshape(h, (ROWS, CHUNKS, CHUNK))
            ends = tl.sum(tl.where((tl.arange(0, CHUNK) == CHUNK - 1)[None, None, :], of_chunk, 0.0), 2)
            tl.store(
                states + (entries[:, None] + (start // CHUNK + chunk + 1)[None, :]) * N + n,
                ends,
                mask=valid[:, None] & (start + chunk * CHUNK < length)[None, :],
            )
            # The column is of h rather than of ends: the carry takes its layout, which must be spread over the lanes.
            last = _column(h, POSITIONS - 1, POSITIONS)
            carry = _with_column(carry, n, last, PADDED_N)
        if D is not None:
            y += tl.load(D + rows, mask=valid, other=0.0)[:, None] * x
        tl.store((out + row * length)[:, None] + t[None, :], y.to(out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=SIZES)
def scan_backward(
    grad,
    u,
    delta,
    A,
    B,
    C,
    D,
    delta_bias,
    states,
    du,
    ddelta,
    dA,
    dB,
    dC,
    dD,
    ddelta_bias,
    length,
    groups,
    channels,
    row_blocks,
    grad_batch,
    grad_row,
    u_batch,
    u_row,
    delta_batch,
    delta_row,
    B_batch,
    B_group,
    B_state,
    C_batch,
    C_group,
    C_state,
    N: tl.constexpr,
    PADDED_N: tl.constexpr,
    SOFTPLUS: tl.constexpr,
    CHUNK: tl.constexpr,
    ALIGN: tl.constexpr,
    ROWS: tl.constexpr,
    POSITIONS: tl.constexpr,
):
    """dA, dD and ddelta_bias are per batch entry, dB and dC per program: the caller adds them, in order."""
    exact: tl.constexpr = A.dtype.element_ty
    batch, group, rows, valid = _place(groups, channels, row_blocks, ROWS)
    length = length * ALIGN
    row = batch * groups * channels + rows
    grad_rows = (batch * grad_batch + rows * grad_row) * ALIGN
    u_rows = (batch * u_batch + rows * u_row) * ALIGN
    delta_rows = (batch * delta_batch + rows * delta_row) * ALIGN
    B += (batch * B_batch + group * B_group) * ALIGN
    C += (batch * C_batch + group * C_group) * ALIGN
    entries = row * ((length + CHUNK - 1) // CHUNK + 1)  # the first of each row's saved states
    partial = tl.program_id(0).to(tl.int64) * N * length
    # The gradient that position t passes on to t - 1: a_t dh_t.
    carry = tl.zeros((ROWS, PADDED_N), exact)
    sum_A = tl.zeros((ROWS, PADDED_N), exact)
    sum_D = tl.zeros((ROWS,), exact)
    sum_bias = tl.zeros((ROWS,), exact)
    tiles = (length + POSITIONS - 1) // POSITIONS
    for i in range(tiles):
        start = (tiles - 1 - i) * POSITIONS
        t = start + tl.arange(0, POSITIONS)
        within = t < length
        inside = valid[:, None] & within[None, :]
        gy = _load(grad, grad_rows, t, inside, exact)
        x = _load(u, u_rows, t, inside, exact)
        step = _load(delta, delta_rows, t, inside, exact)
        slope = 1.0
        if delta_bias is not None:
            step += tl.load(delta_bias + rows, mask=valid, other=0.0)[:, None]
        if SOFTPLUS:
            step, slope = _softplus(step)
        driven = tl.where(inside, step * x, 0.0)
        ddriven = tl.zeros((ROWS, POSITIONS), exact)
        dstep = tl.zeros((ROWS, POSITIONS), exact)
        for n in range(N):
            A_n = tl.load(A + rows * N + n, mask=valid, other=0.0)
            B_n = tl.load(B + n * B_state.to(tl.int64) * ALIGN + t, mask=within, other=0.0).to(exact)[None, :]
            C_n = tl.load(C + n * C_state.to(tl.int64) * ALIGN + t, mask=within, other=0.0).to(exact)[None, :]
            before = tl.load(states + (entries + start // CHUNK) * N + n, mask=valid, other=0.0)
            a = tl.where(inside, tl.exp2(step * (A_n * LOG2_E)[:, None]), 1.0)
            nothing = a * 0.0  # NaN for an infinite decay, as in the forward
            drive = driven * B_n + nothing
            decay, _, kept = tl.associative_scan((a, drive, nothing), 1, _compose_with_kept)
            kept += _decayed(decay, before[:, None])  # a_t h_{t-1}
            direct = C_n * gy
            dh, first = _from_later(a, direct, _column(carry, n, PADDED_N), ROWS, POSITIONS, ALIGN)
            carry = _with_column(carry, n, first, PADDED_N)
            dlog = dh * kept
            ddriven += dh * B_n
            dstep += dlog * A_n[:, None]
            of_A = _column(sum_A, n, PADDED_N) + tl.sum(tl.where(inside, dlog * step, 0.0), 1)
            sum_A = _with_column(sum_A, n, of_A, PADDED_N)
            own = partial + n * length.to(tl.int64) + t
            tl.store(dB + own, tl.sum(tl.where(inside, dh * driven, 0.0), 0), mask=within)
            tl.store(dC + own, tl.sum(tl.where(inside, gy * (kept + drive), 0.0), 0), mask=within)
        dx = ddriven * step
        dstep = (dstep + ddriven * x) * slope
        if D is not None:
            dx += tl.load(D + rows, mask=valid, other=0.0)[:, None] * gy
            sum_D += tl.sum(gy * x, 1)
        if delta_bias is not None:
            sum_bias += tl.sum(tl.where(inside, dstep, 0.0), 1)
        tl.store((du + row * length)[:, None] + t[None, :], dx.to(du.dtype.element_ty), mask=inside)
        tl.store((ddelta + row * length)[:, None] + t[None, :], dstep.to(ddelta.dtype.element_ty), mask=inside)
    of_state = tl.arange(0, PADDED_N)
    tl.store((dA + row * N)[:, None] + of_state[None, :], sum_A, mask=valid[:, None] & (of_state < N)[None, :])
    if D is not None:
        tl.store(dD + row, sum_D, mask=valid)
    if delta_bias is not None:
        tl.store(ddelta_bias + row, sum_bias, mask=valid)
