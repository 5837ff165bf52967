"""The place where numbers stop being finite: the first module in the forward, and in the backward."""

from functools import partial

import pytest
import torch
from helpers import SMALL_ARCH
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper  # mmengine's
from torch.utils.checkpoint import checkpoint

from mmsparx.engine.nan_guard.diagnose import all_finite, diagnose
from mmsparx.models import SparXMamba

NAN, INF = float('nan'), float('inf')

eager_on_demand = pytest.mark.skipif(
    not hasattr(torch.compiler, 'set_stance'), reason='torch before 2.6 cannot run compiled code eagerly'
)


class Apply(nn.Module):
    """A function as a module."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


class Net(nn.Module):
    """Two blocks with a batch norm, and `between`, a function of the first block's output."""

    def __init__(self, between=lambda x: x, inner=nn.Identity, call=lambda block, x: block(x)):
        super().__init__()
        self.block = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), inner())
        self.head = nn.Linear(4, 2)
        self.between = between
        self.call = call

    def forward(self, x):
        return self.head(self.between(self.call(self.block, x)))


def run_of(net, x=None, of_loss=lambda loss: loss):
    x = torch.randn(8, 4) if x is None else x

    def run():
        loss = of_loss(net(x).square().mean())
        loss.backward()
        return {'loss': loss}

    return run


def found(net, **options):
    return [(each.kind, each.name) for each in diagnose(net, run_of(net, **options))]


def test_nothing_is_found_where_everything_is_finite():
    assert found(Net()) == []


def test_a_weight_is_named_before_its_effects():
    net = Net()
    with torch.no_grad():
        net.block[0].weight[1, 2] = NAN
    findings = diagnose(net, run_of(net))
    assert [(each.kind, each.name) for each in findings[:3]] == [
        ('parameter', 'block.0.weight'),
        ('output of module', 'block.0'),
        ('loss', 'loss'),
    ]
    assert str(findings[0]) == "parameter 'block.0.weight': 1 nan of 16 values (torch.float32, 4x4)"
    assert findings[2].detail == 'nan'


def test_a_buffer_is_named():
    net = Net().eval()
    net.block[1].running_mean[0] = INF
    findings = found(net)
    assert findings[0] == ('output of module', 'block.1')
    assert findings[-1] == ('buffer', 'block.1.running_mean')


def test_a_fault_of_an_operator_between_modules_is_found_where_its_result_goes():
    net = Net(between=lambda x: (1 + x.abs()) * 3e38 * 10)
    first, *_ = diagnose(net, run_of(net))
    assert (first.kind, first.name) == ('input of module', 'head')
    assert 'operator between modules' in first.detail


def test_a_fault_of_the_batch_is_found_where_it_enters():
    assert found(Net(), x=torch.full((8, 4), INF))[0] == ('input of module', 'Net')


def test_only_the_loss():
    kinds = found(Net(), of_loss=lambda loss: loss + torch.tensor(NAN))
    assert kinds == [('loss', 'loss')]  # the gradient of a sum is finite


def test_a_gradient_of_a_finite_loss():
    net = Net(inner=lambda: Apply(lambda x: (x * 0).sqrt()))
    (finding,) = diagnose(net, run_of(net))
    assert (finding.kind, finding.name) == ('gradient of input of module', 'block.2')
    assert finding.detail == "32 nan of 32 values (torch.float32, 8x4), also output of module 'block.1'"


def test_a_gradient_of_an_operator_between_modules():
    net = Net(between=lambda x: (x * 0).sqrt())
    (finding,) = diagnose(net, run_of(net))
    assert (finding.kind, finding.name) == ('gradient of output of module', 'block.1')
    assert "also output of module 'block'" in finding.detail
    assert "input of module 'block.2'" in finding.detail  # it is an identity, which computes nothing


def test_only_a_gradient_of_a_parameter():
    net = Net()
    net.scale = nn.Parameter(torch.zeros(()))
    net.between = lambda x: x + net.scale.sqrt()
    assert found(net) == [('gradient of parameter', 'scale')]


@pytest.mark.parametrize('reentrant', [False, True])
def test_recomputed_layers_are_not_confused_with_computed_ones(reentrant):
    calls = []

    def other_the_second_time(x):
        calls.append(torch.is_grad_enabled())
        return x if len(calls) == 1 else x * NAN

    def recompute(block, x):
        return checkpoint(lambda x: block(x).sin(), x, use_reentrant=reentrant)

    x = torch.randn(8, 4, requires_grad=True)
    net = Net(inner=lambda: Apply(other_the_second_time), call=recompute)
    assert {kind for kind, _ in found(net, x=x)} == {'gradient of output of module'}
    assert len(calls) == 2
    broken = Net(inner=lambda: Apply(lambda x: (x * 0).sqrt()), call=recompute)
    assert found(broken, x=x) == [('gradient of input of module', 'block.2')]
    spoilt = Net(inner=lambda: Apply(lambda x: x / 0), call=recompute)
    assert found(spoilt, x=x)[0] == ('output of module', 'block.2')


@pytest.mark.parametrize('with_cp', [False, True])
@pytest.mark.parametrize('what', ['value', 'gradient'])
def test_a_layer_of_the_backbone_is_named_with_and_without_checkpointing(with_cp, what):
    net = SparXMamba(SMALL_ARCH, with_cp=with_cp)
    act = Apply((lambda x: x / 0) if what == 'value' else (lambda x: (x * 0).sqrt()))
    name = next(name for name, module in net.named_modules() if isinstance(module, nn.GELU) and 'stages.2' in name)
    parent, _, leaf = name.rpartition('.')
    setattr(net.get_submodule(parent), leaf, act)
    statistics = {name: x.clone() for name, x in net.named_buffers()}

    def run():
        loss = net(torch.randn(2, 3, 64, 64))[-1].square().mean()
        loss.backward()
        return loss

    kind = 'output of module' if what == 'value' else 'gradient of input of module'
    findings = diagnose(net, run)
    assert (findings[0].kind, findings[0].name) == (kind, name)
    assert all(torch.equal(x, statistics[name]) for name, x in net.named_buffers())


@pytest.mark.parametrize(
    'wrap', [checkpoint_wrapper, pytest.param(partial(torch.compile, backend='eager'), marks=eager_on_demand)]
)
def test_names_are_those_without_wrappers(wrap):
    net = Net(inner=lambda: Apply(lambda x: x / 0))
    with torch.no_grad():
        net.block[0].bias[0] = NAN
    net.block = wrap(net.block)
    x = torch.randn(8, 4, requires_grad=True)
    assert found(net, x=x)[:2] == [('parameter', 'block.0.bias'), ('output of module', 'block.0')]


def test_statistics_gradients_and_hooks_are_put_back():
    net = Net(between=lambda x: x * NAN)
    before = {name: x.clone() for name, x in net.state_dict().items()}
    parameter = net.head.weight
    assert found(net)
    assert all(torch.equal(x, before[name]) for name, x in net.state_dict().items())
    assert all(each.grad is None for each in net.parameters())
    assert not any(each._forward_hooks or each._forward_pre_hooks for each in net.modules())
    assert not parameter._backward_hooks


def test_a_mask_is_no_finding():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.add = Apply(lambda pair: pair[0] + pair[1].exp())

        def forward(self, x):
            return self.add((x, torch.full_like(x, self.value).triu()))

    net = Net(inner=Attention)
    net.block[2].value = -INF
    assert found(net) == []
    net.block[2].value = INF
    assert found(net)[0] == ('input of module', 'block.2.add')


def test_an_error_on_the_way_is_a_finding_among_others():
    def fail(x):
        raise RuntimeError('no such thing')

    net = Net(inner=lambda: Apply(lambda x: x * NAN), between=fail)
    findings = diagnose(net, run_of(net))
    assert [str(each).split(':')[0] for each in findings] == ["output of module 'block.2'", "replay 'RuntimeError'"]
    assert findings[1].detail == 'no such thing'


@eager_on_demand
def test_compiled_modules_are_watched():
    net = Net(inner=lambda: Apply(lambda x: x / 0))
    net.forward = torch.compile(net.forward, backend='eager')
    net(torch.randn(8, 4))
    assert found(net)[0] == ('output of module', 'block.2')


def test_finite():
    large = [torch.full((9,), 3e38), torch.full((9,), -6e4, dtype=torch.float16), torch.ones(2, dtype=torch.complex64)]
    assert all_finite([*large, torch.ones(2, dtype=torch.int64), torch.empty(0)])
    assert all_finite([])
    for value in (NAN, INF, -INF):
        assert not all_finite([*large, torch.tensor([0.0, value], dtype=torch.bfloat16)])
    assert not all_finite([torch.tensor(complex(0, NAN))])
    assert all_finite([torch.ones(3).to_sparse()])
    assert not all_finite([torch.tensor([0, INF]).to_sparse()])
