"""Interleaved timing: contenders take turns, so that other load of the machine affects all of them alike.

    timings = interleave({'ours': run_ours, 'theirs': run_theirs}, Protocol())
    timings['theirs'].median / timings['ours'].median

A sample is one call, or as many as make it long enough to be timed. Every contender is warmed up; then
come rounds, each with another one first. A call that is not timed comes before every sample: caches and
the allocator are then as the contender itself leaves them, not as its neighbour does, which would make
the fastest ones up to twice as slow. A contender that is slow for its share of time sits out
most rounds, evenly, and still has `MIN_SAMPLES` samples. All of them are kept.
"""

import contextlib
import gc
import math
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

MIN_SAMPLES = 3
# Seconds; before samples that take longer comes no call, which would cost more than it changes.
SETTLE_BELOW = 1.0
# Bytes of the tensor that is copied on a GPU: far more than its caches hold.
COPIED = 2**29
# Characters of an error's text in a table.
LONGEST_REASON = 300
# Start of the reason where there is not enough memory.
OUT_OF_MEMORY = 'out of memory'


@dataclass
class Timing:
    """Measurements of one contender.

    Attributes:
        seconds: Seconds per call, one value per sample, in order of time.
        calls: Number of calls per sample.
        skipped: Reason why there are no samples; None if there are.
        facts: Further facts, such as an error or a size, by name.
    """

    seconds: list[float] = field(default_factory=list)
    calls: int = 1
    skipped: str | None = None
    facts: dict[str, float | int | str] = field(default_factory=dict)

    def skip(self, why: Exception | str) -> None:
        """Drop the samples and keep the reason; the traceback goes to stderr, unless memory was insufficient."""
        if isinstance(why, Exception):
            if not is_of_memory(why):
                traceback.print_exception(why)
            why = reason_of(why)
        self.seconds, self.calls, self.skipped = [], 1, why

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def minimum(self) -> float:
        return min(self.seconds)

    @property
    def quartiles(self) -> tuple[float, float]:
        """The first and the third."""
        first, _, third = statistics.quantiles(self.seconds, n=4, method='inclusive')
        return first, third

    @property
    def iqr(self) -> float:
        first, third = self.quartiles
        return third - first


@dataclass(frozen=True)
class Protocol:
    """Protocol of a measurement.

    Attributes:
        seconds: Approximate time of a contender's samples; a slow one's `MIN_SAMPLES` take longer.
        samples: Largest number of samples of a contender.
        shortest: Shortest sample, in seconds; the costs of the clock, its synchronisation and caches filled by the
            previous contender must be negligible in it.
    """

    seconds: float = 3.0
    samples: int = 30
    shortest: float = 2e-2

    def __post_init__(self):
        if self.seconds <= 0 or self.shortest < 0 or self.samples < MIN_SAMPLES:
            raise ValueError(
                f'expected seconds > 0, shortest >= 0 and at least {MIN_SAMPLES} samples, got seconds={self.seconds}, '
                f'shortest={self.shortest}, samples={self.samples}'
            )


def clock_of(device: torch.device) -> Callable[[], float]:
    """A clock in seconds that waits for all work of `device` before it reads."""
    if device.type != 'cuda':
        return time.perf_counter

    def synchronised() -> float:
        torch.cuda.synchronize(device)
        return time.perf_counter()

    return synchronised


def schedule(counts: Sequence[int]) -> Iterator[int]:
    """The order of samples: index i comes counts[i] times, evenly spread over as many rounds as the largest.

    The order within a round rotates, so that nobody always follows the same one.
    """
    rounds = max(counts, default=0)
    for r in range(rounds):
        turn = [i for i, count in enumerate(counts) if (r + 1) * count // rounds > r * count // rounds]
        first = r % len(turn)
        yield from turn[first:] + turn[:first]


def interleave(
    contenders: Mapping[str, Callable[[], object]],
    protocol: Protocol,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Timing]:
    """Time calls against each other.

    A contender's exception of any class becomes its row in the table: Triton's and CUDA's have no common class.
    If a GPU cannot be used afterwards, as after an illegal access, no contender counts as measured.

    Args:
        contenders: Functions to call, by name.
        protocol: Protocol of the measurement.
        clock: Clock in seconds, such as `clock_of` of their device.
    """

    def time_calls(run: Callable[[], object], calls: int) -> float:
        start = clock()
        for _ in range(calls):
            run()
        return clock() - start

    timings = {name: Timing() for name in contenders}
    counts, settle = [], []
    for name, run in contenders.items():
        timing = timings[name]
        # If it never returns, the log says who it was.
        sys.stderr.write(f'  warming up {name}\n')
        sys.stderr.flush()
        try:
            time_calls(run, 1)  # may compile, and touches memory for the first time
            taken = time_calls(run, 1)
            while taken < protocol.shortest:
                timing.calls *= 2
                taken = time_calls(run, timing.calls)
        except Exception as error:
            timing.skip(error)
            if _lost(clock, name, timings):
                return timings
            counts.append(0)
            settle.append(False)
            continue
        affordable = protocol.samples if taken == 0 else int(min(protocol.seconds / taken, protocol.samples))
        counts.append(max(affordable, MIN_SAMPLES))
        settle.append(taken < SETTLE_BELOW)
    names = list(contenders)
    gc.collect()
    collecting = gc.isenabled()
    gc.disable()
    try:
        for i in schedule(counts):
            timing = timings[names[i]]
            run = contenders[names[i]]
            if timing.skipped is not None:
                continue
            try:
                if settle[i]:
                    run()
                taken = time_calls(run, timing.calls)
            except Exception as error:
                timing.skip(error)
                if _lost(clock, names[i], timings):
                    return timings
                continue
            timing.seconds.append(round(taken / timing.calls, 10))
    finally:
        if collecting:
            gc.enable()
    return timings


def is_of_memory(error: BaseException) -> bool:
    """Whether a call has failed because a GPU or the CPU has too little memory."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


def reason_of(error: BaseException) -> str:
    """Class and text of an exception on one line, without its middle where it is long; `OUT_OF_MEMORY` in its place."""
    text = ' '.join(str(error).split())
    if len(text) > LONGEST_REASON:
        half = LONGEST_REASON // 2
        text = f'{text[:half]} [...] {text[-half:]}'
    kind = OUT_OF_MEMORY if is_of_memory(error) else type(error).__name__
    return f'{kind}: {text}'.rstrip(': ')


def _lost(clock: Callable[[], float], name: str, timings: Mapping[str, Timing]) -> bool:
    """Whether the device still answers after the failure of a contender; if not, no timing counts."""
    try:
        clock()
    except Exception as error:
        for other, timing in timings.items():
            if other != name:
                timing.skip(f'not measured: {name} has left the GPU unusable ({reason_of(error)})')
        return True
    return False


def peak_memory(run: Callable[[], object], device: torch.device) -> int | None:
    """Bytes that a call takes on a GPU beyond what was taken before it; None elsewhere."""
    if device.type != 'cuda':
        return None
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    run()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


class Copying:
    """A call that copies a tensor of `size` bytes within the memory of a device.

    Attributes:
        bytes: Number of bytes that a call reads and writes.
    """

    def __init__(self, device: torch.device, size: int = COPIED):
        self.source, self.target = (torch.zeros(size, dtype=torch.uint8, device=device) for _ in range(2))
        self.bytes = 2 * size

    def __call__(self) -> Tensor:
        return self.target.copy_(self.source)


def as_graph(run: Callable[[], object], device: torch.device) -> Callable[[], object]:
    """A call on a GPU as a CUDA graph: the time of its kernels, without that of their launches by Python.

    Raises:
        RuntimeError: the call cannot be captured.
    """
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        for _ in range(3):  # one-time work, such as compiling, cannot be captured
            run()
    torch.cuda.synchronize(device)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        run()
    return graph.replay


def free_memory(device: torch.device) -> float:
    """Bytes that can be taken; infinite where that cannot be known."""
    if device.type == 'cuda':
        # Memory that torch keeps for the next tensor is free as well.
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + kept
    with contextlib.suppress(OSError, ValueError, KeyError):  # Linux has it
        fields = dict(line.split(':', 1) for line in Path('/proc/meminfo').read_text().splitlines())
        return int(fields['MemAvailable'].split()[0]) * 1024
    return math.inf
