"""The Triton kernels of the depthwise convolution. Imports triton: `triton_backend` does so late.

A program has PLANES channels and COLUMNS columns of a map, and goes down its rows. It reads each row once for every
column of the window (v0 to v4) and adds it to the SIDE output rows that it is a part of. Sums of those that lack rows
are kept in s0 to s3, which move up by one when an output is complete. So an output costs SIDE loads, not SIDE * SIDE.

The rows of the window are called a to e, its columns 0 to 4, since Triton has no arrays of registers. A window of 3 has
the first three of each; the compiler drops the others.
"""

import triton
import triton.language as tl

SIZES = ['batch', 'channels', 'height', 'width', 'rows', 'row_blocks', 'column_blocks', 'samples']
SQRT_HALF = tl.constexpr(0.7071067811865476)
INVERSE_SQRT_2_PI = tl.constexpr(0.3989422804014327)


@triton.jit
def _place(channels, rows, row_blocks, column_blocks, PLANES: tl.constexpr, COLUMNS: tl.constexpr):
    """The part of this program: first index, channels, first row and columns."""
    program = tl.program_id(0)
    column = program % column_blocks * COLUMNS + tl.arange(0, COLUMNS)
    program = program // column_blocks
    row = program % row_blocks * rows
    program = program // row_blocks
    blocks = (channels + PLANES - 1) // PLANES
    channel = program % blocks * PLANES + tl.arange(0, PLANES)
    return program // blocks, channel, row, column


@triton.jit
def _weights(
    weight, channel, channels, first: tl.constexpr, step: tl.constexpr, SIDE: tl.constexpr, dtype: tl.constexpr
):
    """A row of the windows, each column (PLANES, 1); first and step: place of its weights in a window."""
    weight += channel * (SIDE * SIDE) + first
    valid = channel < channels
    w0 = tl.load(weight, mask=valid, other=0.0).to(dtype)[:, None]
    w1 = tl.load(weight + step, mask=valid, other=0.0).to(dtype)[:, None]
    w2 = tl.load(weight + 2 * step, mask=valid, other=0.0).to(dtype)[:, None]
    w3, w4 = w2, w2
    if SIDE == 5:
        w3 = tl.load(weight + 3 * step, mask=valid, other=0.0).to(dtype)[:, None]
        w4 = tl.load(weight + 4 * step, mask=valid, other=0.0).to(dtype)[:, None]
    return w0, w1, w2, w3, w4


@triton.jit
def _pixels(planes, valid, y, x, height, width, dtype: tl.constexpr):
    """Row y of each plane (pointers) at columns x, and 0 around the map."""
    inside = valid & ((x >= 0) & (x < width) & (y >= 0) & (y < height))[None, :]
    return tl.load(planes + (tl.cast(y, tl.int64) * width + x)[None, :], mask=inside, other=0.0).to(dtype)


@triton.jit
def _row(planes, valid, y, x, height, width, SIDE: tl.constexpr, dtype: tl.constexpr):
    """Row y as each column of the window sees it, of five."""
    half: tl.constexpr = SIDE // 2
    v0 = _pixels(planes, valid, y, x - half, height, width, dtype)
    v1 = _pixels(planes, valid, y, x - half + 1, height, width, dtype)
    v2 = _pixels(planes, valid, y, x - half + 2, height, width, dtype)
    v3, v4 = v2, v2
    if SIDE == 5:
        v3 = _pixels(planes, valid, y, x - half + 3, height, width, dtype)
        v4 = _pixels(planes, valid, y, x - half + 4, height, width, dtype)
    return v0, v1, v2, v3, v4


@triton.jit
def _product(v0, v1, v2, v3, v4, w0, w1, w2, w3, w4, SIDE: tl.constexpr):
    total = v0 * w0 + v1 * w1 + v2 * w2
    if SIDE == 5:
        total += v3 * w3 + v4 * w4
    return total


@triton.jit
def _activated(z, ACTIVATION: tl.constexpr):
    if ACTIVATION == 'gelu':
        z = 0.5 * z * (1.0 + tl.erf(z * SQRT_HALF))
    elif ACTIVATION == 'silu':
        z = z / (1.0 + tl.exp(-z))
    return z


@triton.jit
def _slope(z, ACTIVATION: tl.constexpr):
    """The derivative of the activation."""
    if ACTIVATION == 'gelu':
        # The density is 0 long before its exponent ends, and infinity times 0 would be NaN.
        near = tl.minimum(tl.abs(z), 40.0)
        slope = 0.5 * (1.0 + tl.erf(z * SQRT_HALF)) + tl.where(z < 0, -near, near) * (
            INVERSE_SQRT_2_PI * tl.exp(-0.5 * near * near)
        )
        slope = tl.where(z == z, slope, z)
    else:
        s = 1.0 / (1.0 + tl.exp(-z))
        slope = s * (1.0 + z * (1.0 - s))
    return slope


@triton.jit(do_not_specialize=SIZES)
def convolve(
    x,
    weight,
    bias,
    grad,
    out,
    channels,
    height,
    width,
    rows,
    row_blocks,
    column_blocks,
    SIDE: tl.constexpr,
    RESIDUAL: tl.constexpr,
    ACTIVATION: tl.constexpr,
    PLANES: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """x (b, C, H, W), weight (C, 1, SIDE, SIDE), bias (C,) or None -> out as x; see `interface`.

    With grad, as x, out is the gradient of what is before the activation, which is computed again. A program has `rows`
    rows of one sample.
    """
    exact: tl.constexpr = tl.float64 if x.dtype.element_ty == tl.float64 else tl.float32
    half: tl.constexpr = SIDE // 2
    sample, channel, first, column = _place(channels, rows, row_blocks, column_blocks, PLANES, COLUMNS)
    offset = ((tl.cast(sample, tl.int64) * channels + channel) * height * width)[:, None]
    valid = (channel < channels)[:, None]
    end = tl.minimum(first + rows, height)
    a0, a1, a2, a3, a4 = _weights(weight, channel, channels, 0, 1, SIDE, exact)
    b0, b1, b2, b3, b4 = _weights(weight, channel, channels, SIDE, 1, SIDE, exact)
    c0, c1, c2, c3, c4 = _weights(weight, channel, channels, 2 * SIDE, 1, SIDE, exact)
    if SIDE == 5:
        d0, d1, d2, d3, d4 = _weights(weight, channel, channels, 3 * SIDE, 1, SIDE, exact)
        e0, e1, e2, e3, e4 = _weights(weight, channel, channels, 4 * SIDE, 1, SIDE, exact)
    start = tl.zeros((PLANES, COLUMNS), exact)
    if bias is not None:
        start += tl.load(bias + channel, mask=channel < channels, other=0.0).to(exact)[:, None]
    s0, s1, s2, s3 = start, start, start, start
    for y in range(first - half, end + half):
        v0, v1, v2, v3, v4 = _row(x + offset, valid, y, column, height, width, SIDE, exact)
        newest = start + _product(v0, v1, v2, v3, v4, a0, a1, a2, a3, a4, SIDE)
        if SIDE == 3:
            z = s0 + _product(v0, v1, v2, v3, v4, c0, c1, c2, c3, c4, SIDE)
            s0 = s1 + _product(v0, v1, v2, v3, v4, b0, b1, b2, b3, b4, SIDE)
            s1 = newest
        else:
            z = s0 + _product(v0, v1, v2, v3, v4, e0, e1, e2, e3, e4, SIDE)
            s0 = s1 + _product(v0, v1, v2, v3, v4, d0, d1, d2, d3, d4, SIDE)
            s1 = s2 + _product(v0, v1, v2, v3, v4, c0, c1, c2, c3, c4, SIDE)
            s2 = s3 + _product(v0, v1, v2, v3, v4, b0, b1, b2, b3, b4, SIDE)
            s3 = newest
        row = y - half
        inside = valid & ((column < width) & (row >= first))[None, :]
        i = offset + (tl.cast(row, tl.int64) * width + column)[None, :]
        if RESIDUAL:
            z += tl.load(x + i, mask=inside, other=0.0).to(exact)
        if grad is not None:
            z = tl.load(grad + i, mask=inside, other=0.0).to(exact) * _slope(z, ACTIVATION)
        else:
            z = _activated(z, ACTIVATION)
        tl.store(out + i, z.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _added(g0, g1, g2, g3, g4, x, v0, v1, v2, v3, v4, SIDE: tl.constexpr):
    """A row of the window's gradient, with what x and a row of the gradient give."""
    g0 += x * v0
    g1 += x * v1
    g2 += x * v2
    if SIDE == 5:
        g3 += x * v3
        g4 += x * v4
    return g0, g1, g2, g3, g4


@triton.jit
def _store_row(partial, valid, g0, g1, g2, g3, g4, SIDE: tl.constexpr):
    """partial: pointers to the row's last weight, of each channel."""
    tl.store(partial, tl.sum(g0, 1), mask=valid)
    tl.store(partial - 1, tl.sum(g1, 1), mask=valid)
    tl.store(partial - 2, tl.sum(g2, 1), mask=valid)
    if SIDE == 5:
        tl.store(partial - 3, tl.sum(g3, 1), mask=valid)
        tl.store(partial - 4, tl.sum(g4, 1), mask=valid)


@triton.jit(do_not_specialize=SIZES)
def gradients(
    grad,
    x,
    weight,
    dx,
    partial,
    batch,
    channels,
    height,
    width,
    rows,
    row_blocks,
    column_blocks,
    samples,
    SIDE: tl.constexpr,
    RESIDUAL: tl.constexpr,
    PLANES: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """grad (b, C, H, W), before the activation, and x -> dx as x, partial (programs of a channel, C, SIDE^2 + 1).

    The gradient of weight comes first in partial, then that of bias. A program has `rows` rows of x, of `samples`
    samples one after the other. It goes down the rows of grad, and holds x's rows above and below, ra to re, which the
    window's gradient is a sum over.
    """
    exact: tl.constexpr = tl.float64 if x.dtype.element_ty == tl.float64 else tl.float32
    half: tl.constexpr = SIDE // 2
    last: tl.constexpr = SIDE * SIDE - 1
    split, channel, first, column = _place(channels, rows, row_blocks, column_blocks, PLANES, COLUMNS)
    there = channel < channels
    valid = there[:, None]
    end = tl.minimum(first + rows, height)
    # dx is a convolution, too, by the window turned round.
    a0, a1, a2, a3, a4 = _weights(weight, channel, channels, last, -1, SIDE, exact)
    b0, b1, b2, b3, b4 = _weights(weight, channel, channels, last - SIDE, -1, SIDE, exact)
    c0, c1, c2, c3, c4 = _weights(weight, channel, channels, last - 2 * SIDE, -1, SIDE, exact)
    if SIDE == 5:
        d0, d1, d2, d3, d4 = _weights(weight, channel, channels, last - 3 * SIDE, -1, SIDE, exact)
        e0, e1, e2, e3, e4 = _weights(weight, channel, channels, last - 4 * SIDE, -1, SIDE, exact)
    none = tl.zeros((PLANES, COLUMNS), exact)
    ga0, ga1, ga2, ga3, ga4 = none, none, none, none, none
    gb0, gb1, gb2, gb3, gb4 = none, none, none, none, none
    gc0, gc1, gc2, gc3, gc4 = none, none, none, none, none
    gd0, gd1, gd2, gd3, gd4 = none, none, none, none, none
    ge0, ge1, ge2, ge3, ge4 = none, none, none, none, none
    of_bias = none
    for sample in range(split * samples, tl.minimum(split * samples + samples, batch)):
        offset = ((tl.cast(sample, tl.int64) * channels + channel) * height * width)[:, None]
        s0, s1, s2, s3 = none, none, none, none
        ra, rb, rc, rd = none, none, none, none
        for y in range(first - half, end + half):
            v0, v1, v2, v3, v4 = _row(grad + offset, valid, y, column, height, width, SIDE, exact)
            newest = _product(v0, v1, v2, v3, v4, a0, a1, a2, a3, a4, SIDE)
            own = valid & ((y + half < end) & (y + half >= first))
            below = _pixels(x + offset, own, y + half, column, height, width, exact)
            ga0, ga1, ga2, ga3, ga4 = _added(ga0, ga1, ga2, ga3, ga4, ra, v0, v1, v2, v3, v4, SIDE)
            gb0, gb1, gb2, gb3, gb4 = _added(gb0, gb1, gb2, gb3, gb4, rb, v0, v1, v2, v3, v4, SIDE)
            if SIDE == 3:
                gc0, gc1, gc2, gc3, gc4 = _added(gc0, gc1, gc2, gc3, gc4, below, v0, v1, v2, v3, v4, SIDE)
                z = s0 + _product(v0, v1, v2, v3, v4, c0, c1, c2, c3, c4, SIDE)
                s0 = s1 + _product(v0, v1, v2, v3, v4, b0, b1, b2, b3, b4, SIDE)
                s1 = newest
                ra, rb = rb, below
                centre = v1
            else:
                gc0, gc1, gc2, gc3, gc4 = _added(gc0, gc1, gc2, gc3, gc4, rc, v0, v1, v2, v3, v4, SIDE)
                gd0, gd1, gd2, gd3, gd4 = _added(gd0, gd1, gd2, gd3, gd4, rd, v0, v1, v2, v3, v4, SIDE)
                ge0, ge1, ge2, ge3, ge4 = _added(ge0, ge1, ge2, ge3, ge4, below, v0, v1, v2, v3, v4, SIDE)
                z = s0 + _product(v0, v1, v2, v3, v4, e0, e1, e2, e3, e4, SIDE)
                s0 = s1 + _product(v0, v1, v2, v3, v4, d0, d1, d2, d3, d4, SIDE)
                s1 = s2 + _product(v0, v1, v2, v3, v4, c0, c1, c2, c3, c4, SIDE)
                s2 = s3 + _product(v0, v1, v2, v3, v4, b0, b1, b2, b3, b4, SIDE)
                s3 = newest
                ra, rb, rc, rd = rb, rc, rd, below
                centre = v2
            of_bias += tl.where((y >= first) & (y < end), centre, 0.0)
            row = y - half
            inside = valid & ((column < width) & (row >= first))[None, :]
            i = offset + (tl.cast(row, tl.int64) * width + column)[None, :]
            if RESIDUAL:
                z += tl.load(grad + i, mask=inside, other=0.0).to(exact)
            tl.store(dx + i, z.to(dx.dtype.element_ty), mask=inside)
    # The map is split in the same way for every channel, and program_id tells which part this is.
    part = (split * row_blocks + first // rows) * column_blocks + tl.program_id(0) % column_blocks
    partial += (part.to(tl.int64) * channels + channel) * (last + 2)
    tl.store(partial + last + 1, tl.sum(of_bias, 1), mask=there)
    _store_row(partial + SIDE - 1, there, ga0, ga1, ga2, ga3, ga4, SIDE)
    _store_row(partial + 2 * SIDE - 1, there, gb0, gb1, gb2, gb3, gb4, SIDE)
    _store_row(partial + 3 * SIDE - 1, there, gc0, gc1, gc2, gc3, gc4, SIDE)
    if SIDE == 5:
        _store_row(partial + 4 * SIDE - 1, there, gd0, gd1, gd2, gd3, gd4, SIDE)
        _store_row(partial + 5 * SIDE - 1, there, ge0, ge1, ge2, ge3, ge4, SIDE)
