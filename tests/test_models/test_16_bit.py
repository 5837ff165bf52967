"""16 bit: types that stay float32 under autocast, values that no 16-bit scan survives, and training.

The tests also run on a GPU if torch sees one. Users train in 16 bit by mmengine's AmpOptimWrapper, autocast and
torch's GradScaler, which asserts a GPU: here the two are used directly.
"""

from functools import cache

import pytest
import torch
import torch.nn.functional as F
from helpers import DEVICES, SMALL_ARCH, Watch, naive_scan, randomise, relative_error
from torch import Tensor

from mmsparx.layers.mixers import SS2D, ss2d
from mmsparx.models import SparXClassifier, SparXMamba
from mmsparx.ops import cross_merge, cross_scan

BITS_16 = [torch.bfloat16, torch.float16]
# With one ganglion layer, every part of the network occurs once.
SMALLEST = {'channels': (8,), 'stages': [{'depth': 1, 'stride': 1}], 'reductions': (2,), 'shortcut_scales': (True,)}


@pytest.fixture(params=DEVICES)
def device(request, monkeypatch):
    if request.param == 'cuda':  # TF32 is as coarse as float16, and float32 is the reference here
        monkeypatch.setattr(torch.backends.cudnn, 'allow_tf32', False)
    return request.param


@pytest.fixture(params=BITS_16, ids=['bf16', 'fp16'])
def dtype(request):
    return request.param


def autocast(device: str, dtype: torch.dtype) -> torch.autocast:
    """Autocast to a type; off for float32."""
    enabled = dtype != torch.float32
    return torch.autocast(device, dtype if enabled else torch.bfloat16, enabled=enabled)


def scan_in(dtype: torch.dtype):
    """`cross_selective_scan`, computed and kept in one type."""

    def scan(x, step, weight, A, B, C, D, delta_bias, delta_softplus, backend):
        kept = x.dtype
        x, step, weight, A, B, C, D, bias = (t.to(dtype) for t in (x, step, weight, A, B, C, D, delta_bias))
        with torch.autocast(x.device.type, enabled=False):
            delta = torch.matmul(weight.unflatten(0, (4, -1)), step).flatten(1, 2)
            u = cross_scan(x).flatten(1, 2)
            out, _ = naive_scan(u, delta, A, B, C, D, delta_bias=bias, delta_softplus=delta_softplus)
            return cross_merge(out.unflatten(1, (4, -1)), *x.shape[2:]).to(kept)

    return scan


def loss_of(outs: tuple[Tensor, ...]) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return sum((out.float() * torch.randn(out.shape, generator=generator).to(out.device)).mean() for out in outs)


def scaled_step(model, x: Tensor, dtype: torch.dtype) -> tuple[tuple[Tensor, ...], Tensor]:
    """Outputs and all gradients in a row, with the loss scale that a GradScaler finds in 8 halvings at most."""
    device = x.device.type
    scaler = torch.amp.GradScaler(device, enabled=dtype == torch.float16)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    for _ in range(9):
        scale = scaler.get_scale()
        optimizer.zero_grad()
        with autocast(device, dtype):
            outs = model(x)
        scaler.scale(loss_of(outs)).backward()
        scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
        if scaler.get_scale() == scale:
            break
    return outs, torch.cat([p.grad.flatten() for p in model.parameters()])


class TestTypes:
    @pytest.fixture
    def watch(self, device, dtype):
        """Types that occur in a training step of a network with four ganglion layers."""
        model = randomise(SparXMamba(SMALL_ARCH)).to(device)
        with Watch() as watch:
            with autocast(device, dtype):
                outs = model(torch.randn(2, 3, 32, 64, device=device))
            loss_of(outs).backward()
        assert all(x.dtype == torch.float32 for x in model.state_dict().values() if x.is_floating_point())
        assert all(p.grad.dtype == torch.float32 for p in model.parameters())
        assert dtype in watch.types['aten.convolution.default']  # autocast was on
        return watch

    def test_of_the_scan(self, watch, dtype):
        # float16 is widened: see test_where_a_16_bit_scan_overflows.
        data = torch.bfloat16 if dtype == torch.bfloat16 else torch.float32
        exact = torch.float32
        inputs = [data, data, data, exact, data, data, exact, exact]  # x, step, weight, A, B, C, D, delta_bias
        forward = watch.types['mmsparx.cross_selective_scan_fwd.default']
        assert forward == [*inputs, data, exact] * 7  # out and states, of seven layers
        backward = watch.types['mmsparx.cross_selective_scan_bwd.default']
        assert backward == [data, *inputs, exact, *inputs] * 7  # grad, states, and the gradients

    def test_of_the_channel_attention(self, watch, dtype):
        # Each ganglion layer has two products of two matrices, a softmax, and twice as many products in the backward.
        scores, values = [torch.float32] * 3, [dtype] * 3
        assert watch.types['aten.bmm.default'] == (scores + values) * 4 + (values * 2 + scores * 2) * 4
        assert watch.types['aten._softmax.default'] == [torch.float32] * 4 * 2
        assert watch.types['aten._softmax_backward_data.default'] == [torch.float32] * 4 * 3

    def test_of_statistics(self, watch, device):
        # mean and 1 / deviation are the last two of input, weight, bias, output, mean and 1 / deviation.
        map_norm = 'mmsparx.map_norm.default' if device == 'cpu' else 'aten.native_group_norm.default'
        for norm in (map_norm, 'aten.native_layer_norm.default'):
            types = watch.types[norm]
            assert {*types[4::6], *types[5::6]} == {torch.float32}


class TestLargeValues:
    """Weights that make the inputs of the scans large, and with them the step, B and C, so that the scans
    grow with the fourth power. The norm after them brings the network back into range."""

    @staticmethod
    def build(device, scale):
        model = randomise(SparXMamba(SMALL_ARCH))
        with torch.no_grad():
            for layer in (m for m in model.modules() if isinstance(m, SS2D)):
                layer.conv.weight.mul_(scale)
                layer.conv.bias.mul_(scale)
        return model.to(device)

    @pytest.mark.parametrize('scale', [1, 16, 64, 256, 1024])
    def test_finite_and_close_to_float32(self, device, dtype, scale):
        model, x = self.build(device, scale), torch.randn(2, 3, 32, 64).to(device)
        expected, expected_gradient = scaled_step(model, x, torch.float32)
        outs, gradient = scaled_step(model, x, dtype)
        assert all(out.isfinite().all() for out in outs)
        assert gradient.isfinite().all()
        # There are some seventy roundings of 2^-9 or 2^-12; those of the steps weigh more for larger steps.
        tolerance = 1.5e-1 if dtype == torch.bfloat16 else 3e-2
        assert all(relative_error(out, y) < tolerance for out, y in zip(outs, expected, strict=True))
        if scale <= 16:  # beyond it, bfloat16's gradient has little to do with float32's
            assert relative_error(gradient, expected_gradient) < (4e-1 if dtype == torch.bfloat16 else 8e-2)

    @pytest.mark.parametrize('scale', [16, 64, 256, 1024])
    def test_where_a_16_bit_scan_overflows(self, device, scale, monkeypatch):
        model, x = self.build(device, scale), torch.randn(2, 3, 32, 64).to(device)

        def outputs(scan_type):
            monkeypatch.setattr(ss2d, 'cross_selective_scan', scan_in(scan_type))
            with torch.no_grad(), autocast(device, torch.float16):
                return model(x)

        assert not any(out.isfinite().all() for out in outputs(torch.float16))
        assert all(out.isfinite().all() for out in outputs(torch.float32))

    def test_a_float16_model_without_autocast(self, device):
        model, x = self.build(device, 64).eval(), torch.randn(2, 3, 32, 64).to(device)
        expected = model(x)
        with Watch() as watch:
            outs = model.half()(x.half())
        assert set(watch.types['mmsparx.cross_selective_scan_fwd.default']) == {torch.float32}
        for out, y in zip(outs, expected, strict=True):
            assert out.dtype == torch.float16
            assert relative_error(out, y) < 2e-2


def test_a_long_memory_needs_more_than_a_16_bit_state(device, dtype, monkeypatch):
    """bfloat16 does not overflow, but steps of a thousandth no longer change a state."""
    layer, x = randomise(SS2D(8)).to(device), torch.rand(1, 8, 32, 32).to(device)
    with torch.no_grad():
        layer.dt_proj_weight.mul_(0.01)
        layer.dt_proj_bias.fill_(-7.0)
        layer.D.zero_()
        expected = layer(x)
        with autocast(device, dtype):
            ours = layer(x)
            monkeypatch.setattr(ss2d, 'cross_selective_scan', scan_in(dtype))
            naive = layer(x)
    tolerance = 2e-2 if dtype == torch.bfloat16 else 2e-3
    assert relative_error(ours, expected) < tolerance
    assert relative_error(naive, expected) > 5 * tolerance


def bars(generator: torch.Generator, count: int = 16, side: int = 16) -> tuple[Tensor, Tensor]:
    """Noisy images of a bar, and labels of its four orientations."""
    labels = torch.randint(4, (count,), generator=generator)
    position = torch.arange(side) - (side - 1) / 2
    y, x = position[:, None], position[None, :]
    distance = torch.stack(torch.broadcast_tensors(y, x, (y - x) / 2**0.5, (y + x) / 2**0.5))[labels]
    shift = 8 * torch.rand(count, 1, 1, generator=generator) - 4
    image = ((distance - shift).abs() < 1.5).float()[:, None]
    return image + 0.5 * torch.randn(count, 3, side, side, generator=generator), labels


@cache
def train(device: str, dtype: torch.dtype, steps: int = 400) -> tuple[Tensor, list[int]]:
    """Losses of all steps, and the skipped steps, of a network of 3559 parameters with one ganglion layer."""
    torch.manual_seed(0)
    model = SparXClassifier(SparXMamba(SMALLEST, out_indices=(0,), output_norm=False), num_classes=4).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    scaler = torch.amp.GradScaler(device, enabled=dtype == torch.float16)
    generator = torch.Generator().manual_seed(1)
    losses, skipped = [], []
    for step in range(steps):
        images, labels = (x.to(device) for x in bars(generator))
        with autocast(device, dtype):
            logits = model(images)
        loss = F.cross_entropy(logits.float(), labels)
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scale = scaler.get_scale()
        scaler.step(optimizer)
        scaler.update()
        if scaler.get_scale() < scale:
            skipped.append(step)
        schedule.step()
        losses.append(loss.item())
    return torch.tensor(losses), skipped


class TestTraining:
    """Three runs of 400 steps on the same images, 5 to 9 s each on one thread, shared by the tests."""

    @staticmethod
    def smoothed(losses: Tensor) -> Tensor:
        return losses.view(-1, 50).mean(1)

    def test_the_loss_falls(self, device):
        curve = self.smoothed(train(device, torch.float32)[0])
        assert curve[0] > 1  # log(4) to begin with
        assert curve[-1] < 0.15

    def test_follows_float32(self, device, dtype):
        expected, curve = (self.smoothed(train(device, x)[0]) for x in (torch.float32, dtype))
        # Each value is the mean of 50 steps of 16 images; measured on a CPU: 0.004 in bfloat16, 0.024 in float16.
        torch.testing.assert_close(curve, expected, rtol=0, atol=0.05)

    def test_few_steps_are_skipped_once_the_loss_scale_has_settled(self, device):
        losses, skipped = train(device, torch.float16)
        assert losses.isfinite().all()
        assert len(skipped) <= 8
        # Rounding, and with it the run, differs from CPU to CPU: on some no step overflows late, on others one does.
        assert sum(step >= 200 for step in skipped) <= 2
        assert not train(device, torch.bfloat16)[1]


def test_compiles_to_one_graph_for_any_batch(device, dtype):
    torch._dynamo.reset()
    model = randomise(SparXMamba(SMALLEST, out_indices=(0,))).to(device)
    compiled = torch.compile(model, fullgraph=True, backend='aot_eager')
    for batch in (2, 3, 5):
        x = torch.randn(batch, 3, 32, 32).to(device)
        torch._dynamo.mark_dynamic(x, 0)
        with autocast(device, dtype), torch._dynamo.config.patch(error_on_recompile=batch > 2):
            (expected,), (out,) = model(x), compiled(x)
        assert out.dtype == expected.dtype
        assert relative_error(out, expected) < 1e-6
        loss_of((out,)).backward()
        assert all(p.grad.isfinite().all() for p in model.parameters())
