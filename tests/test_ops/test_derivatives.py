"""The scans under every mode of differentiation, and vmap, against a plain loop under the same transform."""

import itertools
from functools import partial

import pytest
import torch
import torch.autograd.forward_ad as forward_ad
from helpers import naive_scan, relative_error
from torch.autograd import gradcheck, gradgradcheck
from torch.func import grad, hessian, jacfwd, jacrev, jvp, linearize, vjp

from mmsparx.analysis import traffic
from mmsparx.ops import cross_merge, cross_scan, cross_selective_scan, selective_scan

PLAIN = ('u', 'delta', 'A', 'B', 'C', 'D', 'delta_bias')
CROSS = ('x', 'step', 'weight', 'A', 'B', 'C', 'D', 'delta_bias')


def plain_inputs(length=5, batch=2, dim=4, states=2, groups=2, dtype=torch.float64):
    """The tensors of `PLAIN`."""
    exact = torch.float64 if dtype == torch.float64 else torch.float32
    generator = torch.Generator().manual_seed(0)

    def normal(*shape, dtype=dtype):
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    matrix = (batch, groups, states, length)
    return [
        *(normal(batch, dim, length) for _ in range(2)),
        -normal(dim, states, dtype=exact).exp(),
        *(normal(*matrix) for _ in range(2)),
        *(normal(dim, dtype=exact) for _ in range(2)),
    ]


def cross_inputs(height=2, width=3, batch=2, channels=3, rank=2, states=2):
    """The tensors of `CROSS`."""
    u, step, A, B, C, D, bias = plain_inputs(height * width, batch, 4 * channels, states, 4)
    weight = torch.randn(4 * channels, rank, dtype=u.dtype, generator=torch.Generator().manual_seed(1))
    return [
        u[:, :channels].unflatten(2, (height, width)),
        step.unflatten(1, (4, -1))[:, :, :rank],
        weight,
        A,
        B,
        C,
        D,
        bias,
    ]


def plain(*tensors, softplus=True, **options):
    names = PLAIN[: len(tensors)]
    return selective_scan(**dict(zip(names, tensors, strict=True)), delta_softplus=softplus, **options)


def cross(*tensors, **options):
    return cross_selective_scan(**dict(zip(CROSS, tensors, strict=False)), delta_softplus=True, **options)


def naive_plain(*tensors):
    return naive_scan(**dict(zip(PLAIN, tensors, strict=False)), delta_softplus=True)[0]


def naive_cross(x, step, weight, *others):
    """The cross scan by a loop over positions."""
    delta = torch.matmul(weight.unflatten(0, (4, -1)), step).flatten(1, 2)
    out = naive_plain(cross_scan(x).flatten(1, 2), delta, *others)
    return cross_merge(out.unflatten(1, (4, -1)), *x.shape[2:])


SCANS = {'plain': (plain, naive_plain, plain_inputs), 'cross': (cross, naive_cross, cross_inputs)}


@pytest.fixture(params=SCANS)
def scans(request):
    """The scan, the loop, and the inputs of both."""
    scan, naive, inputs = SCANS[request.param]
    return scan, naive, inputs()


def leaves(tensors):
    return [x.clone().requires_grad_() for x in tensors]


class TestChecks:
    """torch's own checks, by finite differences. Backends only differ in the gradients."""

    def test_forward_mode(self, scans, backend):
        scan, _, tensors = scans
        for count in (len(tensors), len(tensors) - 2):
            assert gradcheck(
                partial(scan, backend=backend), leaves(tensors[:count]), check_forward_ad=True, fast_mode=True
            )

    @pytest.mark.parametrize('backend', ['auto', 'reference'])
    def test_second_derivatives(self, scans, backend):
        scan, _, tensors = scans
        for count in (len(tensors), len(tensors) - 2):
            check = partial(gradgradcheck, partial(scan, backend=backend), leaves(tensors[:count]), fast_mode=True)
            assert check(check_fwd_over_rev=True)

    def test_gate_and_no_softplus(self):
        def scan(z, *tensors):
            return selective_scan(*tensors[:5], z=z)

        u, delta, *others = plain_inputs()
        tensors = leaves([u + 1, u, delta.abs(), *others])
        assert gradcheck(scan, tensors, check_forward_ad=True)
        assert gradgradcheck(scan, tensors, check_fwd_over_rev=True, fast_mode=True)

    def test_batched(self, scans):
        scan, _, tensors = scans
        assert gradcheck(
            scan,
            leaves(tensors),
            check_forward_ad=True,
            check_batched_grad=True,
            check_batched_forward_grad=True,
            fast_mode=True,
        )


def loss(scan):
    return lambda *tensors: scan(*tensors).pow(3).sum()


# Functions (function, tensors, tangents) -> tensors, by name.
TRANSFORMS = {
    'jvp': lambda f, x, t: jvp(f, x, t),
    'vjp': lambda f, x, t: vjp(f, *x)[1](f(*x)),
    'grad': lambda f, x, t: grad(loss(f), argnums=(0, 2, 3))(*x),
    'jacfwd': lambda f, x, t: jacfwd(f, argnums=(1, 2))(*x),
    'jacrev': lambda f, x, t: jacrev(f, argnums=(1, 2))(*x),
    'hessian': lambda f, x, t: hessian(loss(f), argnums=2)(*x),
    'jacfwd-jacfwd': lambda f, x, t: jacfwd(jacfwd(loss(f), argnums=2), argnums=1)(*x),
    'jacrev-jacfwd': lambda f, x, t: jacrev(jacfwd(loss(f), argnums=2), argnums=1)(*x),
    'jacrev-jacrev': lambda f, x, t: jacrev(jacrev(loss(f), argnums=2), argnums=1)(*x),
    'jvp-grad': lambda f, x, t: jvp(grad(loss(f), argnums=2), x, t),
    'grad-grad-grad': lambda f, x, t: grad(lambda *y: grad(lambda *z: grad(loss(f))(*z).pow(2).sum())(*y).pow(2).sum())(
        *x
    ),
    'autograd.functional.jvp': lambda f, x, t: torch.autograd.functional.jvp(f, x, t),
    'autograd.functional.hvp': lambda f, x, t: torch.autograd.functional.hvp(loss(f), x, t),
}


@pytest.mark.parametrize('transform', TRANSFORMS)
def test_transforms(transform, scans):
    scan, naive, tensors = scans
    tangents = tuple(torch.randn_like(x) for x in tensors)
    found, expected = (
        torch.utils._pytree.tree_leaves(TRANSFORMS[transform](f, tuple(tensors), tangents)) for f in (scan, naive)
    )
    assert all(relative_error(a, b) < 1e-12 for a, b in zip(found, expected, strict=True))
    assert all(x.any() for x in found)


class TestTangents:
    def test_linearize(self):
        tensors = tuple(plain_inputs(2, batch=1, dim=2, states=1))
        found, expected = (linearize(f, *tensors)[1](*tensors) for f in (plain, naive_plain))
        assert relative_error(found, expected) < 1e-12

    def test_of_each_input_alone(self, scans):
        scan, naive, tensors = scans
        for i, x in enumerate(tensors):
            with forward_ad.dual_level():
                given = [*tensors[:i], forward_ad.make_dual(x, torch.ones_like(x)), *tensors[i + 1 :]]
                found, expected = (forward_ad.unpack_dual(f(*given)).tangent for f in (scan, naive))
                with torch.no_grad():
                    again = forward_ad.unpack_dual(scan(*given)).tangent
            assert expected.any()
            assert relative_error(found, expected) < 1e-12
            assert torch.equal(again, found)

    @pytest.mark.parametrize('length', [1, 63, 64, 65, 150])
    def test_lengths(self, length):
        tensors = tuple(plain_inputs(length, states=1, dtype=torch.float32))
        tangents = tuple(torch.randn_like(x) for x in tensors)
        ours = jvp(plain, tensors, tangents)
        theirs = jvp(naive_plain, *(tuple(x.double() for x in xs) for xs in (tensors, tangents)))
        assert relative_error(ours[0], plain(*tensors)) < 1e-6
        assert all(relative_error(a, b) < 1e-5 for a, b in zip(ours, theirs, strict=True))

    @pytest.mark.parametrize('around', [-800.0, -30.0, 20.0, 60.0, 800.0])
    def test_softplus_far_from_0(self, around):
        tensors = plain_inputs()
        tensors[1] = tensors[1] + around
        tensors[2] = tensors[2] / abs(around)
        tangents = tuple(torch.randn_like(x) for x in tensors)
        found, expected = (
            (*jvp(f, tuple(tensors), tangents), *jvp(grad(loss(f)), tuple(tensors), tangents))
            for f in (plain, naive_plain)
        )
        assert all(relative_error(a, b) < 1e-11 for a, b in zip(found, expected, strict=True))

    def test_of_the_last_state(self):
        tensors, tangents = (tuple(plain_inputs(70)), tuple(reversed(range(7))))
        tangents = tuple(torch.full_like(x, 1 + t) for x, t in zip(tensors, tangents, strict=True))
        _, (_, found) = jvp(lambda *x: plain(*x, return_last_state=True), tensors, tangents)
        _, (_, expected) = jvp(
            lambda *x: naive_scan(**dict(zip(PLAIN, x, strict=True)), delta_softplus=True), tensors, tangents
        )
        assert relative_error(found, expected) < 1e-12

    def test_16_bit(self):
        tensors = tuple(plain_inputs(dtype=torch.bfloat16))
        out, tangent = jvp(plain, tensors, tensors)
        _, expected = jvp(naive_plain, *[tuple(x.double() for x in tensors)] * 2)
        assert out.dtype == tangent.dtype == torch.bfloat16
        assert relative_error(tangent, expected) < 4e-3

    def test_through_graphs(self):
        """Graphs call the operator itself."""
        tensors = tuple(plain_inputs())

        class Scan(torch.nn.Module):
            def forward(self, *tensors):
                return plain(*tensors)

        graph = torch.export.export(Scan(), tensors).module()
        found, expected = (jvp(f, tensors, tensors)[1] for f in (graph, naive_plain))
        assert relative_error(found, expected) < 1e-12


class TestCompiled:
    @pytest.fixture(autouse=True)
    def _fresh(self):
        torch._dynamo.reset()
        yield
        torch._dynamo.reset()

    @pytest.mark.parametrize('transform', ['jvp', 'grad'])
    def test_transforms(self, transform):
        tensors = tuple(plain_inputs())
        found = torch.compile(lambda *x: TRANSFORMS[transform](plain, x, x), backend='aot_eager')(*tensors)
        expected = TRANSFORMS[transform](naive_plain, tensors, tensors)
        assert all(relative_error(a, b) < 1e-12 for a, b in zip(found, expected, strict=True))

    def test_a_dual_level_within_is_refused(self):
        tensors = plain_inputs()

        def tangent(x):
            with forward_ad.dual_level():
                out = plain(forward_ad.make_dual(x, x), *tensors[1:])
                return forward_ad.unpack_dual(out).tangent

        try:
            with pytest.raises(RuntimeError, match=r'Enter torch\.autograd\.forward_ad\.dual_level\(\) outside'):
                torch.compile(tangent, backend='eager')(tensors[0])
        finally:
            torch._C._exit_dual_level(level=0)  # the graph, which torch has left midway, does not


class TestMissingGradients:
    def test_no_zeros_are_made_for_kept_outputs(self, scans):
        scan, _, tensors = scans
        out = scan(*leaves(tensors)).sum()
        assert 'aten.zeros' not in traffic(out.backward).calls

    def test_of_an_output_without_a_gradient(self, scans):
        class Constant(torch.autograd.Function):
            @staticmethod
            def forward(ctx, x):
                return x.clone()

            @staticmethod
            def backward(ctx, grad):
                return None

        scan, _, tensors = scans
        inputs = leaves(tensors)
        Constant.apply(scan(*inputs)).sum().backward()
        assert all(x.grad is None for x in inputs)


class TestVmap:
    def test_any_inputs(self, scans, backend):
        scan, _, tensors = scans
        stacked = [torch.stack([x, 2 * x, x / 2]) for x in tensors]
        subsets = [{i} for i in range(len(tensors))] + [{0, 1, 4}, {0, 2, 5}, set(range(len(tensors)))]
        for mapped in subsets:
            given = [stacked[i] if i in mapped else x for i, x in enumerate(tensors)]
            axes = tuple(0 if i in mapped else None for i in range(len(given)))
            found = torch.vmap(partial(scan, backend=backend), in_dims=axes)(*given)
            one_by_one = [
                scan(*(x[k] if i in mapped else x for i, x in enumerate(given)), backend=backend) for k in range(3)
            ]
            assert relative_error(found, torch.stack(one_by_one)) < 1e-14

    def test_another_axis_and_nested(self, scans):
        scan, _, (x, *others) = scans
        stacked = torch.stack([torch.stack([x, 2 * x]), torch.stack([x / 2, -x])], -1)  # (2, ..., 2)
        found = torch.vmap(torch.vmap(lambda x: scan(x, *others), in_dims=-1))(stacked)
        expected = torch.stack([torch.stack([scan(x, *others) for x in row.unbind(-1)]) for row in stacked])
        assert relative_error(found, expected) < 1e-14

    def test_gradients_per_sample(self, scans, backend):
        scan, _, tensors = scans
        data = [i for i, x in enumerate(tensors) if x.dim() > 2]
        parameters = [i for i, x in enumerate(tensors) if x.dim() <= 2]

        def of_a_sample(*tensors):
            one = (x[None] if i in data else x for i, x in enumerate(tensors))  # a batch of 1
            return loss(partial(scan, backend=backend))(*one)

        axes = tuple(0 if i in data else None for i in range(len(tensors)))
        found = torch.vmap(grad(of_a_sample, argnums=tuple(parameters)), in_dims=axes)(*tensors)
        for k in range(2):
            inputs = leaves(x[k : k + 1] if i in data else x for i, x in enumerate(tensors))
            expected = torch.autograd.grad(loss(scan)(*inputs), [inputs[i] for i in parameters])
            assert all(relative_error(a[k], b) < 1e-12 for a, b in zip(found, expected, strict=True))


def test_plain_autograd_around_transforms():
    """Gradients of results of torch.func."""
    for transform, argnum in itertools.product(('jvp', 'grad'), range(3)):
        results = []
        for f in (plain, naive_plain):
            inputs = leaves(plain_inputs())
            outs = TRANSFORMS[transform](f, tuple(inputs), tuple(x.detach() for x in inputs))
            results.append(torch.autograd.grad(sum(out.pow(2).sum() for out in outs), inputs[argnum])[0])
        assert results[1].any()
        assert relative_error(*results) < 1e-12
