"""Plain networks of the style `swin` against timm's Swin, and SparX-Swin."""

import pytest
import torch
from helpers import relative_error

from mmsparx.models import SparXClassifier, SparXSwin

SWIN_T = {'channels': (96, 192, 384, 768), 'stages': [{'depth': depth} for depth in (2, 2, 6, 2)]}


def timm_names(name: str) -> str:
    """timm's name of a parameter of ours."""
    name = name.removeprefix('backbone.')
    for ours, theirs in (
        ('stem.0.', 'patch_embed.proj.'),
        ('stem.1.', 'patch_embed.norm.'),
        ('head.norm.', 'norm.'),
        ('stages.', 'layers.'),
        ('.layers.', '.blocks.'),
        ('.mixer.', '.attn.'),
        ('.ffn.', '.mlp.'),
    ):
        name = theirs + name.removeprefix(ours) if name.startswith(ours) else name.replace(ours, theirs, 1)
    return name


def test_a_plain_network_is_timms_swin_t():
    timm = pytest.importorskip('timm')
    theirs = timm.create_model('swin_tiny_patch4_window7_224', num_classes=10).double().eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator).mul_(0.02))
            if parameter.dim() == 1:
                parameter.add_(1)
    state = theirs.state_dict()
    ours = SparXClassifier(SparXSwin(SWIN_T, out_indices=(3,), output_norm=False), num_classes=10).double().eval()
    renamed = {name: state[timm_names(name)].reshape(x.shape) for name, x in ours.state_dict().items()}
    ours.load_state_dict(renamed)
    assert sum(x.numel() for x in ours.parameters()) == sum(x.numel() for x in theirs.parameters())
    x = torch.randn(1, 3, 224, 224, generator=generator).double()
    assert relative_error(ours(x), theirs(x)) < 1e-12


def test_heads():
    for arch, heads in (('tiny', (3, 6, 10, 18)), ('base', (4, 8, 12, 22))):
        with torch.device('meta'):
            stages = SparXSwin(arch).stages
        assert tuple(stage.layers[0].mixer.num_heads for stage in stages) == heads


def test_plans():
    base = SparXSwin.ARCHITECTURES['base']
    assert base.stages[2].ganglia == (1, 6, 11, 16, 21, 26)
    assert base.stages[3].ganglia == (1, 2)
    assert SparXSwin.ARCHITECTURES['tiny'].stages[2].ganglia == (0, 2, 4, 6)
