"""1x1 convolutions as matrix products, and as convolutions for other tools."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from mmsparx.layers.pointwise import pointwise_conv, pointwise_conv2d


def inputs(shape=(2, 6, 5, 7), out=9, bias=True, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    shapes = [shape, (out, shape[1], 1, 1)] + [(out,)] * bias
    return [torch.randn(s, generator=generator).to(dtype).requires_grad_() for s in shapes]


class Operators(TorchDispatchMode):
    """The names of the operators that run within it."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def convolves(function, *args) -> bool:
    with Operators() as operators:
        function(*args)
    assert operators.names & {'convolution', 'bmm'}
    return 'convolution' in operators.names


@pytest.mark.parametrize('bias', [True, False])
@pytest.mark.parametrize('shape', [(2, 6, 5, 7), (1, 6, 1, 1), (0, 6, 4, 4), (3, 96, 14, 14)])
def test_values_and_gradients(shape, bias):
    """Against torch's convolution in float64."""
    single = inputs(shape, bias=bias)
    double = [x.detach().double().requires_grad_() for x in single]
    out, truth = pointwise_conv2d(*single), F.conv2d(*double)
    torch.testing.assert_close(out.double(), truth, rtol=1e-5, atol=1e-5)
    grad = torch.randn_like(truth)
    found, expected = torch.autograd.grad(out, single, grad.float()), torch.autograd.grad(truth, double, grad)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-5, atol=1e-4)


def test_float32_on_cpus_is_a_product():
    assert not convolves(pointwise_conv2d, *inputs())


def test_cases_that_stay_a_convolution():
    x, weight, bias = inputs()
    assert convolves(pointwise_conv2d, *inputs(dtype=torch.float64))
    assert convolves(pointwise_conv2d, *inputs(dtype=torch.bfloat16))
    assert convolves(pointwise_conv2d, x.detach().to(memory_format=torch.channels_last), weight, bias)
    assert convolves(pointwise_conv2d, x[0], weight, bias)
    assert convolves(pointwise_conv2d, *(t.to('meta') for t in (x, weight, bias)))
    with torch.autocast('cpu', torch.bfloat16):
        assert pointwise_conv2d(x, weight, bias).dtype == torch.bfloat16


def test_tracing_and_export_see_a_convolution():
    module, x = pointwise_conv(6, 9).eval(), inputs()[0].detach()
    traced = torch.jit.trace(module, x)
    assert 'aten::_convolution' in str(traced.inlined_graph)
    exported = torch.export.export(module, (x,))
    assert [str(n.target) for n in exported.graph.nodes if n.op == 'call_function'] == ['aten.conv2d.default']
    torch.testing.assert_close(traced(x), module(x))


def test_multiply_adds_are_the_convolutions():
    with FlopCounterMode(display=False) as product:
        pointwise_conv2d(*inputs())
    with FlopCounterMode(display=False) as convolution:
        F.conv2d(*inputs())
    assert product.get_total_flops() == convolution.get_total_flops() > 0


def test_other_channels_are_refused():
    with pytest.raises(RuntimeError, match='to have 6 channels, but got 5'):
        pointwise_conv(6, 9)(torch.randn(1, 5, 4, 4))


def test_it_is_a_convolution_by_type():
    """It stays one when it is copied, pickled, or given other weights; transforms of torch.func run it."""
    conv, x = pointwise_conv(6, 9), inputs()[0].detach()
    assert type(conv) is torch.nn.Conv2d
    for twin in (copy.deepcopy(conv), pickle.loads(pickle.dumps(conv))):
        assert not convolves(twin, x)
        assert torch.equal(twin(x), conv(x))
    biases = torch.randn(3, 9)
    each = torch.vmap(lambda bias: torch.func.functional_call(conv, {'bias': bias}, x))(biases)
    torch.testing.assert_close(each, conv(x) + (biases - conv.bias).view(3, 1, 9, 1, 1))
