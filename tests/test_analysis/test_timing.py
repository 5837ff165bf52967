"""The measurement protocol, on a clock that the test controls."""

import gc
from collections import Counter

import pytest
import torch

from mmsparx.analysis.timing import (
    MIN_SAMPLES,
    Protocol,
    Timing,
    clock_of,
    free_memory,
    interleave,
    peak_memory,
    reason_of,
    schedule,
)


class Machine:
    """A clock, and calls that take a given time."""

    def __init__(self):
        self.now = 0.0
        self.calls = []

    def clock(self):
        return self.now

    def contender(self, name, seconds):
        times = iter(seconds) if isinstance(seconds, list) else None

        def run():
            self.calls.append(name)
            self.now += next(times) if times else seconds

        return run


def test_contenders_take_turns_and_the_first_rotates():
    machine = Machine()
    contenders = {name: machine.contender(name, 1.0) for name in 'abc'}
    interleave(contenders, Protocol(seconds=4.0, samples=4), machine.clock)
    assert ''.join(machine.calls) == 'aabbcc' + 'abc' + 'bca' + 'cab' + 'abc'


def test_a_slow_contender_has_few_samples_evenly_spread():
    machine = Machine()
    contenders = {'fast': machine.contender('f', 1.0), 'slow': machine.contender('s', 100.0)}
    timings = interleave(contenders, Protocol(seconds=30.0, samples=30), machine.clock)
    assert len(timings['fast'].seconds) == 30
    assert len(timings['slow'].seconds) == MIN_SAMPLES == 3
    samples = ''.join(machine.calls[4:])
    assert [len(run) for run in samples.split('s')] == [9, 10, 10, 1]


def test_budget_bounds_the_samples():
    machine = Machine()
    timings = interleave({'a': machine.contender('a', 1.0)}, Protocol(seconds=7.5, samples=30), machine.clock)
    assert len(timings['a'].seconds) == 7


def test_short_calls_are_put_together_until_they_can_be_timed():
    machine = Machine()
    timings = interleave({'a': machine.contender('a', 0.3e-3)}, Protocol(1.0, 5, shortest=2e-3), machine.clock)
    assert timings['a'].calls == 8
    assert timings['a'].seconds == [pytest.approx(0.3e-3)] * 5


def test_no_sample_pays_for_its_neighbours_garbage():
    machine = Machine()

    def contender(name):
        def run():
            machine.now += 0.5 if machine.calls[-1:] == [name] else 5.0
            machine.calls.append(name)

        return run

    timings = interleave({name: contender(name) for name in 'ab'}, Protocol(seconds=2.0), machine.clock)
    assert timings == {name: Timing([0.5] * 4) for name in 'ab'}


def test_warm_up_is_not_counted():
    machine = Machine()
    times = [1000.0, 1.0, *[1.0, 2.0, 3.0, 4.0, 10.0]]
    timing = interleave({'a': machine.contender('a', times)}, Protocol(5.0, 30), machine.clock)['a']
    assert timing.seconds == [1.0, 2.0, 3.0, 4.0, 10.0]
    assert (timing.median, timing.minimum, timing.quartiles, timing.iqr) == (3.0, 1.0, (2.0, 4.0), 2.0)


@pytest.mark.parametrize('counts', [[3], [30, 3, 7], [3, 30], [0, 5], [5, 5, 5], []])
def test_schedule_gives_everybody_their_count(counts):
    order = list(schedule(counts))
    assert [Counter(order)[i] for i in range(len(counts))] == counts


class CompilationError(Exception):
    """An error that is not derived from usual ones, like Triton's."""


def test_an_exception_of_any_class_is_a_row_with_its_text(capsys):
    machine = Machine()

    def fail():
        raise CompilationError('at 1:0:\n    no such kernel\n')

    timings = interleave({'a': machine.contender('a', 1.0), 'b': fail}, Protocol(3.0, 3), machine.clock)
    assert timings['b'] == Timing(skipped='CompilationError: at 1:0: no such kernel')
    assert len(timings['a'].seconds) == 3
    said = capsys.readouterr().err
    assert 'warming up b' in said
    assert 'in fail' in said  # the traceback


def test_a_contender_that_fails_later_has_no_samples():
    machine = Machine()
    calls = []

    def fail():
        calls.append(machine.now)
        machine.now += 1.0
        if len(calls) > 3:
            raise MemoryError

    timings = interleave({'a': fail, 'b': machine.contender('b', 1.0)}, Protocol(5.0, 5), machine.clock)
    assert timings['a'] == Timing(skipped='out of memory')
    assert len(calls) == 4
    assert len(timings['b'].seconds) == 5


@pytest.mark.parametrize('good', [0, 3])
def test_no_results_if_one_leaves_the_gpu_unusable(good):
    machine = Machine()
    lost = []

    def clock():
        if lost:
            raise RuntimeError('CUDA error: an illegal memory access was encountered')
        return machine.now

    def fail():
        machine.now += 1.0
        if (machine.calls.append('c') or machine.calls.count('c')) > good:
            lost.append(True)

    contenders = {'a': machine.contender('a', 1.0), 'c': fail, 'z': machine.contender('z', 1.0)}
    timings = interleave(contenders, Protocol(5.0, 5), clock)
    error = 'RuntimeError: CUDA error: an illegal memory access was encountered'
    assert timings['c'] == Timing(skipped=error)
    assert timings['a'] == timings['z'] == Timing(skipped=f'not measured: c has left the GPU unusable ({error})')


@pytest.mark.parametrize(
    ('error', 'reason'),
    [
        (torch.OutOfMemoryError('CUDA out of memory.'), 'out of memory: CUDA out of memory.'),
        (RuntimeError("can't allocate memory: 8 bytes"), "out of memory: can't allocate memory: 8 bytes"),
        (RuntimeError('another'), 'RuntimeError: another'),
    ],
)
def test_lack_of_memory_is_distinguished_from_faults(error, reason, capsys):
    timing = Timing()
    timing.skip(error)
    assert timing.skipped == reason
    assert ('another' in capsys.readouterr().err) == ('another' in reason)  # its traceback


def test_a_long_text_is_cut_in_its_middle():
    reason = reason_of(ValueError('a' * 1000 + 'b' * 1000))
    assert reason.startswith('ValueError: aaa')
    assert reason.endswith('bbb')
    assert len(reason) < 330


def test_garbage_collection_is_off_meanwhile_and_on_after_a_failure():
    states = []

    def run():
        states.append(gc.isenabled())
        if len(states) == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interleave({'a': run}, Protocol(5.0, 30, shortest=0))
    assert states == [True, True, False, False, False]
    assert gc.isenabled()


@pytest.mark.parametrize('options', [{'seconds': 0}, {'samples': 2}, {'shortest': -1}])
def test_impossible_protocols(options):
    with pytest.raises(ValueError, match='expected seconds > 0'):
        Protocol(**options)


def test_on_a_cpu():
    cpu = torch.device('cpu')
    assert clock_of(cpu)() <= clock_of(cpu)()
    assert peak_memory(lambda: None, cpu) is None
    assert free_memory(cpu) > 0
