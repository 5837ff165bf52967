"""Operators and bytes of a network on a GPU, counted without a GPU on tensors without memory."""

from contextlib import contextmanager

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from mmsparx.analysis import Traffic, traffic
from mmsparx.export import fold
from mmsparx.layers import recompute
from mmsparx.models import SparXMamba


@contextmanager
def autocast_without_a_gpu(dtype):
    """torch.autocast('cuda', dtype), which torch disables without a GPU."""
    before = torch.is_autocast_enabled('cuda'), torch.get_autocast_dtype('cuda')
    torch.set_autocast_enabled('cuda', True)
    torch.set_autocast_dtype('cuda', dtype)
    try:
        yield
    finally:
        torch.clear_autocast_cache()
        torch.set_autocast_enabled('cuda', before[0])
        torch.set_autocast_dtype('cuda', before[1])


@pytest.fixture(scope='module')
def inference() -> Traffic:
    """SparX-Mamba-T at 224, batch 128, under autocast in bfloat16."""
    with FakeTensorMode(), torch.device('cuda'):
        model = SparXMamba('tiny', output_norm=False).eval()
        x = torch.empty(128, 3, 224, 224)
        with torch.no_grad(), autocast_without_a_gpu(torch.bfloat16):
            return traffic(lambda: model(x))


def test_bytes_of_a_network(inference):
    assert inference.total_bytes <= 28.7e9, str(inference)


def test_operators_of_a_network(inference):
    """Nearly all conversions are autocast's, one for every weight and bias."""
    casts = inference.calls['aten._to_copy']
    assert inference.total_calls - casts <= 453, str(inference)
    assert casts <= 202, str(inference)


def test_a_folded_network():
    """It is folded and converted to bfloat16 once, while autocast converts weights in every pass."""
    with torch.device('meta'):
        model = fold(SparXMamba('tiny', output_norm=False)).to(torch.bfloat16)
    with FakeTensorMode(), torch.device('cuda'):
        for module in model.modules():
            for name, parameter in module._parameters.items():  # Module.to cannot make fake tensors of them
                if parameter is not None:
                    module._parameters[name] = nn.Parameter(torch.empty(parameter.shape, dtype=parameter.dtype), False)
        x = torch.empty(128, 3, 224, 224, dtype=torch.bfloat16)
        with torch.no_grad():
            found = traffic(lambda: model(x))
    assert found.total_bytes <= 25.9e9, str(found)
    assert found.total_calls <= 427, str(found)


@pytest.mark.skipif(recompute._outer_hooks is None, reason='before torch 2.8 nothing is computed again')
def test_a_training_step():
    """A step is a forward and a backward, which recomputes cheap activations."""
    with FakeTensorMode():
        model = SparXMamba('tiny', output_norm=False, out_indices=(3,), drop_path_rate=0.2)
        x = torch.empty(128, 3, 224, 224)

        def step():
            with torch.autocast('cpu', torch.bfloat16):
                loss = model(x)[0].float().mean()
            loss.backward()

        found = traffic(step)
    assert found.total_bytes <= 89.5e9, str(found)
    assert found.total_calls <= 1691, str(found)
    # Gradients of slices, of kept outputs, and of products with a scalar would pass over memory for nothing.
    assert not found.calls.keys() & {'aten.slice_backward', 'aten.zeros'}, str(found)


def test_its_own_operators_are_those_that_run_on_gpus(inference):
    own = {name: calls for name, calls in inference.calls.items() if name.startswith('mmsparx.')}
    assert own == {
        'mmsparx.depthwise_conv2d': 53,
        'mmsparx.map_norm': 46,
        'mmsparx.cross_selective_scan_fwd': 13,
    }


class TestCounter:
    def test_bytes_are_those_of_inputs_and_outputs(self):
        x, y = torch.ones(6, 4), torch.ones(4, dtype=torch.float16)
        found = traffic(lambda: x + y)
        assert (found.calls, found.bytes_moved) == ({'aten.add': 1}, {'aten.add': 2 * 96 + 8})
        assert (found.total_calls, found.total_bytes) == (1, 200)
        assert str(found).splitlines()[1].split() == ['1', '0.000', 'GB', 'aten.add']

    def test_views_and_allocations_move_nothing(self):
        x = torch.ones(6, 4)
        assert traffic(lambda: x.t()[2:].unsqueeze(0).detach().expand(3, -1, -1).new_empty(5)).total_calls == 0

    def test_expanded_tensors_are_read_once(self):
        x = torch.ones(6, 1)
        assert traffic(lambda: x.expand(6, 4).clone()).total_bytes == 4 * (6 + 24)

    def test_changes_in_place(self):
        x = torch.ones(6, 4)
        assert traffic(lambda: x.mul_(2)).bytes_moved == {'aten.mul_': 192}

    def test_an_optimizer_counts_too(self):
        x = torch.ones(6, 4, requires_grad=True)
        x.grad = torch.ones(6, 4)
        optimizer = torch.optim.SGD([x], lr=0.1, foreach=True)
        assert traffic(optimizer.step).bytes_moved == {'aten._foreach_add_': 3 * 96}

    def test_a_backward_counts_too(self):
        x = torch.ones(3, requires_grad=True)
        assert traffic(lambda: x.exp().sum().backward()).calls['aten.mul'] == 1
