"""The Triton kernels of the norm over whole maps. Imports triton: `triton_backend` does so late.

A sample is one sequence of C L numbers. Few samples have to fill a GPU, so each is split over many programs: into parts
for its statistics, into channels for the sums of the backward, into tiles for what is written.

Sizes come in units of ALIGN elements and are never compiled in; multiplied by that constant they are known to be its
multiples, which is enough for loads of 16 bytes.
"""

import triton
import triton.language as tl

SIZES = ['batch', 'channels', 'length', 'parts', 'tiles', 'size', 'chunk', 'chunks']


@triton.jit
def _joined(count1, mean1, squares1, count2, mean2, squares2):
    """Count, mean and sum of squares around the mean of two sets together (Chan et al., 1979)."""
    count = count1 + count2
    share = count2 / tl.where(count == 0.0, 1.0, count)
    apart = mean2 - mean1
    return count, mean1 + apart * share, squares1 + squares2 + apart * apart * count1 * share


@triton.jit(do_not_specialize=SIZES)
def part_statistics(x, partial, size, parts, chunk, ALIGN: tl.constexpr, BLOCK: tl.constexpr):
    """x (b, size) -> partial (b, parts, 3): count, mean less the sample's first number, sum of squares around the mean.

    A part has `chunk` blocks. Lanes follow their own mean (Welford, 1962), relative to the sample's first number, so
    that a mean far from 0 takes no digits from it; then they are joined as a tree.
    """
    exact: tl.constexpr = partial.dtype.element_ty
    program = tl.program_id(0)
    sample, part = (program // parts).to(tl.int64), program % parts
    size = size.to(tl.int64) * ALIGN
    x += sample * size
    shift = tl.load(x).to(exact)
    first = part.to(tl.int64) * chunk * BLOCK
    count = tl.zeros((BLOCK,), exact)
    mean = tl.zeros((BLOCK,), exact)
    squares = tl.zeros((BLOCK,), exact)
    for k in range(chunk):
        i = first + k * BLOCK + tl.arange(0, BLOCK)
        inside = i < size
        value = tl.load(x + i, mask=inside, other=0.0).to(exact) - shift
        apart = tl.where(inside, value - mean, 0.0)
        mean += apart * (1.0 / tl.cast(k + 1, exact))
        squares += apart * tl.where(inside, value - mean, 0.0)
        count += tl.where(inside, 1.0, 0.0)
    count, mean, squares = tl.reduce((count, mean, squares), 0, _joined)
    partial += 3 * program.to(tl.int64)
    tl.store(partial, count)
    tl.store(partial + 1, mean)
    tl.store(partial + 2, squares)


@triton.jit
def _group(size, tiles, length, ALIGN: tl.constexpr, GROUPS: tl.constexpr):
    """sample, tile, channel of each group of ALIGN neighbours, its position in the sample, and whether it is there.

    `length` is that of a channel, in units of ALIGN.
    """
    program = tl.program_id(0)
    tile = program % tiles
    group = tile * GROUPS + tl.arange(0, GROUPS)
    return (program // tiles).to(tl.int64), tile, group // length, group.to(tl.int64) * ALIGN, group < size


@triton.jit(do_not_specialize=SIZES)
def normalise(
    x,
    partial,
    weight,
    bias,
    out,
    mean,
    rstd,
    size,
    length,
    parts,
    tiles,
    EPS: tl.constexpr,
    ALIGN: tl.constexpr,
    GROUPS: tl.constexpr,
    PADDED_PARTS: tl.constexpr,
):
    """x (b, size), partial (b, parts, 3), weight and bias (C,) -> out as x, mean and rstd (b,)."""
    exact: tl.constexpr = mean.dtype.element_ty
    sample, tile, channel, start, inside = _group(size, tiles, length, ALIGN, GROUPS)
    x += sample * size * ALIGN
    out += sample * size * ALIGN
    part = tl.arange(0, PADDED_PARTS)
    there = part < parts
    of_part = partial + (sample * parts + part) * 3
    count, centre, squares = tl.reduce(
        (
            tl.load(of_part, mask=there, other=0.0),
            tl.load(of_part + 1, mask=there, other=0.0),
            tl.load(of_part + 2, mask=there, other=0.0),
        ),
        0,
        _joined,
    )
    centre += tl.load(x).to(exact)
    scale = 1.0 / tl.sqrt(squares / count + EPS)
    if tile == 0:
        tl.store(mean + sample, centre)
        tl.store(rstd + sample, scale)
    i = start[:, None] + tl.arange(0, ALIGN)[None, :]
    value = tl.load(x + i, mask=inside[:, None], other=0.0).to(exact)
    slope = tl.load(weight + channel, mask=inside, other=0.0).to(exact) * scale
    offset = tl.load(bias + channel, mask=inside, other=0.0).to(exact)
    value = (value - centre) * slope[:, None] + offset[:, None]
    tl.store(out + i, value.to(out.dtype.element_ty), mask=inside[:, None])


@triton.jit(do_not_specialize=SIZES)
def channel_sums(
    grad,
    x,
    mean,
    rstd,
    sums,
    batch,
    channels,
    length,
    chunk,
    chunks,
    ALIGN: tl.constexpr,
    ROWS: tl.constexpr,
    POSITIONS: tl.constexpr,
):
    """grad and x (b, C, L) -> sums (2, b, C, chunks): of grad, and of grad times the normalised x.

    A program has ROWS channels, of any samples, and `chunk` tiles of POSITIONS of them.
    """
    exact: tl.constexpr = sums.dtype.element_ty
    program = tl.program_id(0)
    row = (program // chunks).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    part = program % chunks
    rows = batch.to(tl.int64) * channels
    valid = row < rows
    centre = tl.load(mean + row // channels, mask=valid, other=0.0)
    scale = tl.load(rstd + row // channels, mask=valid, other=0.0)
    length = length * ALIGN
    of_grad = tl.zeros((ROWS, POSITIONS), exact)
    of_product = tl.zeros((ROWS, POSITIONS), exact)
    for k in range(chunk):
        t = (part * chunk + k) * POSITIONS + tl.arange(0, POSITIONS)
        inside = valid[:, None] & (t < length)[None, :]
        i = (row * length)[:, None] + t[None, :]
        g = tl.load(grad + i, mask=inside, other=0.0).to(exact)
        value = tl.load(x + i, mask=inside, other=0.0).to(exact)
        of_grad += g
        of_product += tl.where(inside, g * ((value - centre[:, None]) * scale[:, None]), 0.0)
    sums += row * chunks + part
    tl.store(sums, tl.sum(of_grad, 1), mask=valid)
    tl.store(sums + rows * chunks, tl.sum(of_product, 1), mask=valid)


@triton.jit(do_not_specialize=SIZES)
def gradient(
    grad,
    x,
    weight,
    mean,
    rstd,
    sums,
    dx,
    batch,
    size,
    length,
    tiles,
    ALIGN: tl.constexpr,
    GROUPS: tl.constexpr,
):
    """grad and x (b, size), and sums (2, b), of grad and of grad times the normalised x, weighted -> dx as x."""
    exact: tl.constexpr = mean.dtype.element_ty
    sample, _, channel, start, inside = _group(size, tiles, length, ALIGN, GROUPS)
    offset = sample * size * ALIGN
    scale = tl.load(rstd + sample)
    count = size.to(exact) * ALIGN
    of_grad = tl.load(sums + sample) / count
    of_product = tl.load(sums + batch + sample) / count
    i = offset + start[:, None] + tl.arange(0, ALIGN)[None, :]
    g = tl.load(grad + i, mask=inside[:, None], other=0.0).to(exact)
    value = (tl.load(x + i, mask=inside[:, None], other=0.0).to(exact) - tl.load(mean + sample)) * scale
    slope = tl.load(weight + channel, mask=inside, other=0.0).to(exact)
    g = scale * (g * slope[:, None] - of_grad - value * of_product)
    tl.store(dx + i, g.to(dx.dtype.element_ty), mask=inside[:, None])
