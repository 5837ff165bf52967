"""Features that only a GPU has: streams, graphs, several devices. Other tests check the results of all backends."""

from functools import partial

import pytest
import torch
from helpers import relative_error
from helpers.kernels import backward, forward, inputs, to

from mmsparx.ops import native, triton_runtime

GPU = torch.device('cuda')
cross_forward = torch.ops.mmsparx.cross_selective_scan_fwd
cross_backward = torch.ops.mmsparx.cross_selective_scan_bwd


def usable() -> list[str]:
    """Backends with kernels for GPUs that can run."""
    if not torch.cuda.is_available():
        return []
    u = torch.empty(1, 1, 1, device=GPU)
    backends = {'native': native, 'triton': triton_runtime}
    return [name for name, backend in backends.items() if (backend.missing() or backend.refusal(u)) is None]


pytestmark = [
    pytest.mark.gpu,
    pytest.mark.parametrize('backend', usable()),
]


def scan(tensors, backend):
    """out, states and all gradients, of a plain scan or a cross scan."""
    forth, back = (forward, backward) if tensors[0].dim() == 3 else (cross_forward, cross_backward)
    out, states = forth(*tensors, True, backend)
    return [out, states, *back(torch.ones_like(out), *tensors, states, True, backend)]


def map_inputs(height, width, *, channels, states=1, batch=1, dtype=torch.float32, seed=0):
    """x, step, weight, A, B, C, D and delta_bias, as the operator takes them."""
    _, _, *others = inputs(
        height * width, dim=4 * channels, states=states, groups=4, batch=batch, dtype=dtype, seed=seed
    )
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, channels, height, width, generator=generator)
    step = torch.randn(batch, 4, 3, height * width, generator=generator)
    weight = torch.randn(4 * channels, 3, generator=generator) / 2
    return [x.to(dtype), step.to(dtype), weight.to(dtype), *others]


# Functions that make inputs from a seed, by name. One map fits into a block's shared memory, and one does not.
CASES = {
    'sequences': partial(inputs, 784, dim=64, groups=4),
    'small maps': partial(map_inputs, 28, 28, channels=48),
    'large maps': partial(map_inputs, 96, 70, channels=16),
}
every_case = pytest.mark.parametrize('make', CASES.values(), ids=CASES)


def assert_same(found, expected):
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
@every_case
def test_the_same_bits_at_every_run(make, backend, dtype):
    tensors = to(GPU, make(batch=64, dtype=dtype))
    expected = scan(tensors, backend)
    for _ in range(5):
        assert_same(scan(tensors, backend), expected)


@every_case
def test_two_streams(make, backend):
    first, second = (to(GPU, make(seed=seed)) for seed in (0, 1))
    expected = [scan(tensors, backend) for tensors in (first, second)]
    torch.cuda.synchronize()
    streams = [torch.cuda.Stream(), torch.cuda.Stream()]
    found = []
    for stream, tensors in zip(streams, (first, second), strict=True):
        with torch.cuda.stream(stream):
            for _ in range(10):
                last = scan(tensors, backend)
            found.append(last)
    torch.cuda.synchronize()
    for ours, theirs in zip(found, expected, strict=True):
        assert_same(ours, theirs)


@every_case
def test_a_captured_graph_follows_its_inputs(make, backend):
    tensors = to(GPU, make(states=2))
    others = to(GPU, make(states=2, seed=1))
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # as torch asks for: once before the capture
        scan(tensors, backend)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = scan(tensors, backend)
    for x, other in zip(tensors, others, strict=True):
        x.copy_(other)
    graph.replay()
    assert_same(captured, scan(others, backend))


@every_case
def test_a_device_that_is_not_the_current_one(make, backend):
    if torch.cuda.device_count() < 2:
        pytest.skip('needs two GPUs')
    tensors = make()
    with torch.cuda.device(0):
        found = scan(to('cuda:1', tensors), backend)
        assert all(x.device == torch.device('cuda:1') for x in found)
        assert_same(to('cpu', found), to('cpu', scan(to('cuda:0', tensors), backend)))


@pytest.mark.parametrize(('dtype', 'tolerance'), [(torch.float32, 2e-6), (torch.bfloat16, 1e-2), (torch.float16, 2e-3)])
@pytest.mark.parametrize(
    'make',
    [
        partial(inputs, 100, dim=512, groups=4),
        *(partial(map_inputs, side, side, channels=128) for side in (7, 8, 14, 28)),
        partial(map_inputs, 64, 80, channels=128),
    ],
    ids=['sequences', '7 x 7', '8 x 8', '14 x 14', '28 x 28', '64 x 80'],
)
def test_many_rows_agree_with_few(make, backend, dtype, tolerance):
    # The CUDA kernels use a lane per row if the rows fill the GPU, which takes some 60 000, else a warp: here there are
    # 131 072 rows and 1024.
    copies = 128
    tensors = to(GPU, make(batch=2, dtype=dtype))
    of_samples = [x.dim() > 2 for x in tensors]
    many = [x.repeat(copies, *[1] * (x.dim() - 1)) if i else x for x, i in zip(tensors, of_samples, strict=True)]
    forth = forward if tensors[0].dim() == 3 else cross_forward
    for found, expected in zip(forth(*many, True, backend), forth(*tensors, True, backend), strict=True):
        found = found.unflatten(0, (copies, 2))
        assert (found == found[:1]).all()
        assert relative_error(found[0], expected) < tolerance


def test_more_states_than_a_block_has_memory_for(backend):
    if backend != 'native':
        pytest.skip('a limit of the CUDA kernels')
    with pytest.raises(RuntimeError, match=r'at most 1024 states, got .* 1025 states; choose another backend'):
        forward(*to(GPU, inputs(5, states=1025)), True, backend)
