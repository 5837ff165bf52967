"""Published parameter names and ours: one to one, with the published shapes."""

import math

import pytest
import torch
from helpers import oracle_shapes

from mmsparx.models import SparXClassifier, SparXMamba
from mmsparx.weights.names import SPARX, VMAMBA, convert_names, find_backbones

ARCHS = {'t': 'tiny', 's': 'small', 'b': 'base'}


@pytest.mark.parametrize('name', ['t', 's', 'b', 't_detection_extra'])
def test_there_and_back(name):
    published = list(oracle_shapes(name))
    ours = [SPARX.to_ours(x) for x in published]
    assert len(set(ours)) == len(published)
    assert [SPARX.to_published(x) for x in ours] == published


def test_a_downsampling_is_in_the_stage_that_it_leads_to():
    assert SPARX.to_ours('layers.0.downsample.1.bias') == 'stages.1.downsample.1.bias'
    assert SPARX.to_published('stages.3.downsample.0.weight') == 'layers.2.downsample.0.weight'
    assert SPARX.to_published('stages.0.downsample.0.weight') is None


@pytest.mark.parametrize('name', ARCHS)
def test_the_classifier_has_the_published_names_and_shapes(name):
    with torch.device('meta'):
        model = SparXClassifier(SparXMamba(ARCHS[name], out_indices=(3,), output_norm=False))
    ours = {x.removeprefix('backbone.'): list(tensor.shape) for x, tensor in model.state_dict().items()}
    published = {SPARX.to_published(x): shape for x, shape in ours.items()}
    assert published == oracle_shapes(name)
    assert {SPARX.to_ours(x) for x in published} == set(ours)


def test_the_detection_backbone_has_the_published_names_and_shapes():
    with torch.device('meta'):
        model = SparXMamba('tiny', aggregator={'type': 'DMCA', 'learnable_scale': True})
    ours = {SPARX.to_published(x): list(tensor.shape) for x, tensor in model.state_dict().items()}
    classifier = {x: shape for x, shape in oracle_shapes('t').items() if not x.startswith('classifier.')}
    assert ours == classifier | oracle_shapes('t_detection_extra')


@pytest.mark.parametrize(
    'name',
    [
        'conv1.weight',
        'head.fc.weight',
        'layers.0.blocks.0.attn.qkv.weight',
        'layers.0.blocks.0.op.nonesuch.weight',
        'layers.0.blocks.0.op.in_proj',
        'layers.0.blocks.0',
        'classifier.1.weight',
        'norm.weight',
        'norm.x.weight',
        '',
    ],
)
def test_not_a_published_name(name):
    assert SPARX.to_ours(name) is None


@pytest.mark.parametrize(
    'name',
    ['conv1.weight', 'patch_embed.0.weight', 'stages.0.layers.0.nonesuch.weight', 'stages.0.layers.0.mixer.x', ''],
)
def test_not_a_name_of_ours(name):
    assert SPARX.to_published(name) is None


def test_is_published():
    assert SPARX.is_published(['x', 'patch_embed.0.weight'])
    assert SPARX.is_published(['layers.0.blocks.1.norm.weight'])
    assert not SPARX.is_published(['stem.0.weight', 'stages.0.layers.0.norm1.weight', 'layers.0.weight'])
    assert not SPARX.is_published([])


@pytest.mark.parametrize(
    ('names', 'prefixes'),
    [
        (['stem.0.weight', 'stages.0.layers.0.mixer.D'], ['']),
        (['neck.conv.weight', 'backbone.layers.2.blocks.0.pos_embed.bias'], ['backbone.']),
        (['b.x.stages.0.layers.0.mixer.D', 'a.stages.1.layers.0.mixer.D'], ['a.', 'b.x.']),
        (['layers.0.blocks.0.op.Ds', 'stages.0.layers.0.norm1.bias', 'substages.0.layers.0.mixer.D'], []),
        ([], []),
    ],
)
def test_prefixes(names, prefixes):
    assert SPARX.prefixes(names) == prefixes


class TestConvertNames:
    HEADS = ['neck.conv.weight', 'roi_head.bbox_head.fc_cls.weight']

    def backbone(self, prefix=''):
        names = [x for x in oracle_shapes('t') if not x.startswith('classifier.')]
        return [prefix + x for x in [*names, *oracle_shapes('t_detection_extra')]]

    def assert_there_and_back(self, published, ours):
        assert list(convert_names(published, 'ours').items()) == list(zip(published, ours, strict=True))
        assert list(convert_names(ours, 'published').items()) == list(zip(ours, published, strict=True))
        for names, to in ((published, 'published'), (ours, 'ours')):
            assert convert_names(names, to) == {name: name for name in names}

    @pytest.mark.parametrize('name', ARCHS)
    def test_a_classifier(self, name):
        published = list(oracle_shapes(name))
        ours = [SPARX.to_ours(x) for x in published]
        self.assert_there_and_back(published, [x if x.startswith('head.') else f'backbone.{x}' for x in ours])

    @pytest.mark.parametrize('prefix', ['', 'backbone.', 'student.backbone.'])
    def test_a_backbone(self, prefix):
        self.assert_there_and_back(self.backbone(prefix), [prefix + SPARX.to_ours(x) for x in self.backbone()])

    def test_heads_of_others_stay(self):
        ours = [f'backbone.{SPARX.to_ours(x)}' for x in self.backbone()]
        self.assert_there_and_back(self.backbone('backbone.') + self.HEADS, ours + self.HEADS)

    def test_a_classifiers_head_beside_a_published_backbone(self):
        names = [*self.backbone('backbone.'), 'head.norm.weight', 'head.norm.bias', 'head.fc.weight', 'head.fc.bias']
        ours = [f'backbone.{SPARX.to_ours(x)}' for x in self.backbone()]
        assert list(convert_names(names, 'ours').values()) == ours + names[-4:]

    @pytest.mark.parametrize('to', ['ours', 'published'])
    def test_one_backbone_of_each_style(self, to):
        ours = [SPARX.to_ours(x) for x in self.backbone()]
        names = [*(f'teacher.{x}' for x in self.backbone()), *(f'student.{x}' for x in ours)]
        within = ours if to == 'ours' else self.backbone()
        assert list(convert_names(names, to).values()) == [f'{at}.{x}' for at in ('teacher', 'student') for x in within]

    def test_a_flat_file_of_ours(self):
        published = list(oracle_shapes('t'))
        ours = [SPARX.to_ours(name) for name in published]
        assert list(convert_names(ours, 'published').values()) == published

    @pytest.mark.parametrize('prefix', ['', 'backbone.'])
    @pytest.mark.parametrize('to', ['ours', 'published'])
    def test_names_without_a_counterpart(self, prefix, to):
        names = self.backbone(prefix)
        if to == 'published':
            names = list(convert_names(names, 'ours').values())
        lost = [
            f'{prefix}whatever',
            f'{prefix}stages.0.layers.0.mixer.in_proj.0.weight',
            f'{prefix}classifier.1.weight',
        ]
        with pytest.raises(ValueError, match='3 names have no counterpart among') as error:
            convert_names([*names, *lost], to)
        assert ', '.join(lost) in str(error.value)

    def test_no_backbone(self):
        with pytest.raises(ValueError, match=r'no SparX backbone is in the file; its names begin with: layer1\.0\.x'):
            convert_names(['layer1.0.x', 'fc.weight'], 'ours')

    def test_unknown_style(self):
        with pytest.raises(ValueError, match="to: expected 'ours' or 'published', got 'timm'"):
            convert_names(self.backbone(), 'timm')


class TestVMamba:
    """See tests/test_models/test_vmamba.py for whole networks and files."""

    NAMES = {
        'patch_embed.2.weight': 'stem.1.weight',
        'patch_embed.7.bias': 'stem.4.bias',
        'layers.0.blocks.1.norm2.weight': 'stages.0.layers.1.norm2.weight',
        'layers.0.blocks.1.op.in_proj.weight': 'stages.0.layers.1.mixer.in_proj.weight',
        'layers.0.blocks.1.op.dt_projs_bias': 'stages.0.layers.1.mixer.dt_proj_bias',
        'layers.0.blocks.1.op.A_logs': 'stages.0.layers.1.mixer.A_log',
        'layers.2.blocks.10.mlp.fc1.bias': 'stages.2.layers.10.ffn.fc1.bias',
        'layers.0.downsample.1.bias': 'stages.1.downsample.0.bias',
        'layers.2.downsample.3.weight': 'stages.3.downsample.1.weight',
        'outnorm3.weight': 'out_norms.3.weight',
        'classifier.norm.weight': 'head.norm.weight',
        'classifier.head.bias': 'head.fc.bias',
    }

    @pytest.mark.parametrize('published', NAMES)
    def test_there_and_back(self, published):
        assert VMAMBA.to_ours(published) == self.NAMES[published]
        assert VMAMBA.to_published(self.NAMES[published]) == published

    @pytest.mark.parametrize('part', ['x_proj', 'dt_projs'])
    def test_both_spellings(self, part):
        old, new = (f'layers.0.blocks.0.op.{part}{end}' for end in ('_weight', '.weight'))
        assert VMAMBA.spelling(new) == VMAMBA.spelling(old) == old
        assert VMAMBA.to_ours(new) == VMAMBA.to_ours(old)
        with pytest.raises(ValueError, match=f'1 names have no counterpart among ours names: {new}'):
            convert_names(['patch_embed.2.weight', old, new], 'ours')

    @pytest.mark.parametrize(
        'name',
        [
            'patch_embed.1.weight',
            'layers.0.downsample.0.weight',
            'layers.0.blocks.0.op.nonesuch',
            'layers.0.blocks.0.pos_embed.weight',
            'classifier.0.weight',
            'head.fc.weight',
            'outnorm.weight',
            '',
        ],
    )
    def test_not_a_published_name(self, name):
        assert VMAMBA.to_ours(name) is None

    @pytest.mark.parametrize(
        'name', ['stem.2.weight', 'stages.0.downsample.0.weight', 'stages.0.layers.0.position.bias']
    )
    def test_not_a_name_of_ours(self, name):
        assert VMAMBA.to_published(name) is None

    @pytest.mark.parametrize(
        ('name', 'stored', 'ours'),
        [
            ('mixer.x_proj_weight', (4, 5, 6), (20, 6, 1)),
            ('mixer.x_proj_weight', (20, 6), (20, 6, 1)),
            ('mixer.x_proj_weight', (20, 6, 1), (20, 6, 1)),
            ('mixer.dt_proj_weight', (4, 6, 3), (4, 6, 3)),
            ('mixer.dt_proj_weight', (24, 3), (4, 6, 3)),
            ('mixer.in_proj.weight', (12, 6), (12, 6, 1, 1)),
            ('mixer.out_proj.weight', (12, 6, 1, 1), (12, 6, 1, 1)),
            ('ffn.fc1.weight', (12, 6), (12, 6, 1, 1)),
            ('ffn.fc1.bias', (12,), (12,)),
            ('mixer.dt_proj_weight', (23, 3), (23, 3)),  # an unknown shape is left as it is, for the report
        ],
    )
    def test_values_keep_their_order(self, name, stored, ours):
        value = torch.arange(math.prod(stored)).view(stored)
        found = VMAMBA.to_our_value(f'backbone.stages.0.layers.1.{name}', value)
        assert found.shape == ours
        assert torch.equal(found.flatten(), value.flatten())

    def test_values_outside_of_a_backbone_stay(self):
        for name in ('decode_head.ffn.fc1.weight', 'head.fc.weight', 'stages.0.mixer.in_proj.weight'):
            assert VMAMBA.to_our_value(name, torch.zeros(3, 2)).shape == (3, 2)
            assert VMAMBA.to_published_value(name, torch.zeros(3, 2, 1, 1)).shape == (3, 2, 1, 1)

    @pytest.mark.parametrize(
        ('names', 'found'),
        [
            (['patch_embed.2.weight', 'layers.0.blocks.0.op.Ds'], {'': VMAMBA}),
            (['backbone.patch_embed.2.bias', 'backbone.outnorm0.bias'], {'backbone.': VMAMBA}),
            (['a.stem.3.bias', 'a.stages.0.layers.0.mixer.D'], {'a.': VMAMBA}),
            (['stem.0.bias', 'stages.0.layers.0.mixer.D'], {'': SPARX}),
            (['patch_embed.0.weight', 'layers.0.blocks.0.pos_embed.bias'], {'': SPARX}),
            (['stem.3.bias_correction'], {}),
        ],
    )
    def test_which_family(self, names, found):
        assert find_backbones(names) == found
