"""A mismatch is an error that names it and a probable cause, and nothing is loaded."""

import pytest
import torch
from helpers import SMALL_ARCH
from helpers.weights import (
    LEARNABLE,
    assert_unchanged,
    build,
    build_classifier,
    published_classifier,
    published_detector,
    state_of,
)
from torch import nn
from torch.nn.utils import prune

from mmsparx.models import load_pretrained
from mmsparx.weights import match_weights
from mmsparx.weights.names import SPARX


@pytest.fixture
def refused(save):
    """Asserts that a model refuses contents, with these messages."""

    def refused(model, content, *messages, **options):
        path, before = save(content), state_of(model)
        with pytest.raises(RuntimeError) as error:
            load_pretrained(model, path, **options)
        for message in (path, *messages, 'Nothing was loaded.'):
            assert message in str(error.value), str(error.value)
        assert_unchanged(model, before)

    return refused


class TestBackbone:
    @pytest.mark.parametrize(
        'name', ['patch_embed.0.weight', 'layers.2.blocks.0.op.A_logs', 'layers.0.downsample.1.bias']
    )
    def test_missing(self, name, refused):
        published = published_classifier()
        del published[name]
        refused(
            build(), published, f'1 MISSING in the file: {SPARX.to_ours(name)}', "incomplete: 1 of the model's tensors"
        )

    def test_the_scale_may_be_missing_and_not_be_left_over(self, refused):
        refused(
            build(),
            {'state_dict': published_detector()},
            '4 UNEXPECTED in the file: stages.1.layers.1.mixer.in_proj.scale',
            'aggregator=dict(..., learnable_scale=True) gives the model',
        )

    def test_output_norms_may_be_missing_and_not_be_left_over(self, refused):
        published = {name: x for name, x in published_detector().items() if not name.endswith('.scale')}
        refused(build(output_norm=False), published, '8 UNEXPECTED in the file: out_norms.0.weight')

    @pytest.mark.parametrize('name', ['layers.0.blocks.0.op.extra', 'layers.0.blocks.0.norm.extra', 'whatever'])
    def test_unexpected(self, name, refused):
        published = published_classifier() | {name: torch.zeros(1)}
        refused(build(), published, '1 UNEXPECTED in the file: ', 'of another network, or incomplete')

    def test_another_shape(self, refused):
        published = published_classifier()
        published['patch_embed.0.weight'] = torch.zeros(4, 3, 1, 1)
        message = '1 of ANOTHER SHAPE: stem.0.weight (model (4, 3, 3, 3), file (4, 3, 1, 1))'
        refused(build(), published, message, 'of another network; shape of stem.0.weight: 4, 3, 1, 1 in the file, 4, 3')

    def test_another_width(self, refused):
        model = build(SMALL_ARCH | {'channels': (8, 16, 24, 36)})
        said = 'of another network; channels: 8, 16, 24, 32 in the file, 8, 16, 24, 36 in the model. '
        refused(model, published_classifier(), 'of ANOTHER SHAPE', said)

    def test_another_depth_of_the_stem(self, refused):
        shallow, deep = (build(SMALL_ARCH | {'stem_depth': depth}) for depth in (2, 3))
        refused(shallow, deep.state_dict(), 'of another network; tensors in the stem: 15 in the file, 10 in the model.')
        refused(deep, shallow.state_dict(), 'of another network; tensors in the stem: 10 in the file, 15 in the model.')

    def test_another_place(self, refused):
        for prefix in ('', 'neck'):
            refused(build(), published_detector(), "begin with 'backbone.'; try prefix='backbone.'", prefix=prefix)


class TestBuffersThatNeedNotMatch:
    def test_counters_may_be_missing(self, save):
        published = {k: x for k, x in published_classifier().items() if not k.endswith('num_batches_tracked')}
        for model in (build(), build_classifier()):
            report = load_pretrained(model, save(published))
            counters = [name for name in model.state_dict() if name.endswith('num_batches_tracked')]
            assert counters
            assert set(counters) <= set(report.fresh)
            assert f'{len(report.fresh)} keep their initial values: ' in str(report)

    def test_no_other_buffer_may_be_missing(self, refused):
        published = {k: x for k, x in published_classifier().items() if not k.endswith('running_mean')}
        refused(build(), published, 'MISSING in the file: stem.1.running_mean', 'incomplete')

    def test_buffers_of_profilers_are_left_out(self, save):
        profiled = {name: torch.zeros(1) for name in ('total_ops', 'total_params', 'layers.0.blocks.0.total_ops')}
        for model in (build(), build_classifier()):
            report = load_pretrained(model, save(published_classifier() | profiled))
            left_out = [name for name in report.left_out if name.endswith(('total_ops', 'total_params'))]
            assert len(left_out) == len(profiled)
            assert f'{len(report.left_out)} in the file, not in the model, left out: ' in str(report)


class TestComputedWeights:
    """Weights that torch keeps as several tensors: their kind, and how to make them one again."""

    def test_pruned(self, refused):
        model = build_classifier()
        prune.l1_unstructured(model.backbone.stem[0], 'weight', 0.5)
        prune.l1_unstructured(model.head.fc, 'weight', 0.5)
        said = ('a pruned model', "torch.nn.utils.prune.remove(module, 'weight')", 'save it again')
        refused(build_classifier(), model.state_dict(), *said)
        prune.remove(model.backbone.stem[0], 'weight')
        prune.remove(model.head.fc, 'weight')
        build_classifier().load_state_dict(model.state_dict())

    @pytest.mark.filterwarnings('ignore:.*weight_norm:FutureWarning')
    def test_weight_norm(self, refused):
        model = build_classifier()
        nn.utils.weight_norm(model.head.fc)
        said = ('a model with weight normalisation', 'torch.nn.utils.remove_weight_norm(module)')
        refused(build_classifier(), model.state_dict(), *said)

    @pytest.mark.parametrize('normalise', ['weight_norm', 'spectral_norm', 'orthogonal'])
    def test_parametrizations(self, normalise, refused):
        model = build_classifier()
        getattr(nn.utils.parametrizations, normalise)(model.head.fc)
        said = ('a model with parametrizations', "remove_parametrizations(module, 'weight')")
        refused(build_classifier(), model.state_dict(), *said)
        nn.utils.parametrize.remove_parametrizations(model.head.fc, 'weight')
        build_classifier().load_state_dict(model.state_dict())


class TestOtherNetworks:
    # VMamba and the published SparX have the latter in common.
    @pytest.mark.parametrize('name', ['rpn_head.conv.weight', 'layers.0.blocks.0.op.x_proj_weight'])
    def test_their_names_are_quoted(self, name, refused):
        content = {'state_dict': {name: torch.zeros(2), 'roi_head.fc.bias': torch.zeros(2)}}
        refused(build(), content, f"None of its names is a SparX backbone's; they begin with: {name}, roi_head")

    def test_other_heads_over_a_sparx(self, refused):
        model = nn.ModuleDict({'backbone': build(aggregator=LEARNABLE)})
        published = published_detector()
        del published['neck.conv.weight']
        published['decoder.layers.0.self_attn.weight'] = torch.zeros(2)
        said = 'The file has decoder (1 tensor), which the model lacks, and all that the model has.'
        refused(model, published, '1 UNEXPECTED', said, "To leave that out: may_differ=['decoder.*'].")


class TestWholeModels:
    def test_a_head_of_other_classes(self, refused):
        refused(
            build_classifier(num_classes=7),
            published_classifier(),
            '2 of ANOTHER SHAPE: head.fc.weight (model (7, 32), file (5, 32))',
            'Its head is of other classes: 5 in the file, 7 in the model. To fine-tune',
            "may_differ=['head.fc.*'].",
        )

    def test_a_backbone_alone(self, refused):
        headless = {name: x for name, x in published_classifier().items() if not name.startswith('classifier.')}
        refused(
            build_classifier(), headless, '4 MISSING', 'Load it into the backbone alone: load_pretrained(model.backb'
        )

    def test_a_tensor_alone_is_missing(self, refused):
        for name in ('classifier.3.bias', 'layers.0.blocks.0.norm.bias'):
            published = published_classifier()
            del published[name]
            refused(build_classifier(), published, "incomplete: 1 of the model's tensors")

    def test_a_classifier_for_a_detector(self, refused):
        detector = nn.ModuleDict({'backbone': build(), 'neck': nn.Linear(2, 2)})
        refused(detector, published_classifier(), '2 MISSING in the file: neck.weight, neck.bias', 'backbone alone')

    def test_no_learnable_scale(self, refused):
        model = nn.ModuleDict({'backbone': build(aggregator=LEARNABLE)})
        state = {name: x for name, x in state_of(model).items() if not name.endswith('.scale')}
        refused(model, state, '4 MISSING', 'leave learnable_scale=True out of the aggregator')

    def test_output_norms_may_not_be_missing_in_a_file_of_its_kind(self, refused):
        model = nn.ModuleDict({'backbone': build()})
        state = {name: x for name, x in state_of(model).items() if '.out_norms.' not in name}
        refused(model, state, '8 MISSING in the file: backbone.out_norms.0.weight', 'incomplete')

    def test_another_arch(self, refused):
        refused(
            build_classifier(),
            {
                'backbone.' + name: x
                for name, x in build(SMALL_ARCH | {'channels': (8, 16, 24, 36)}).state_dict().items()
            },
            'of another network; channels: 8, 16, 24, 36 in the file, 8, 16, 24, 32 in the model',
        )


class TestWholeParts:
    """Parts that only the file or only the model has, while all else matches."""

    HEADS = {
        'decode_head': (2, 5),
        'auxiliary_head': (2, 5),
        'roi_head.bbox_head': (2, 3),
        'roi_head.mask_head': (2, 4),
        'neck.0': (2, 2),
        'neck.1': (2, 2),
    }

    def build(self, *parts, **classes):
        """A model with some of these parts, each of a layer."""
        model = nn.ModuleDict({'backbone': build()})
        for place in parts:
            *outer, name = place.split('.')
            module = model
            for step in outer:
                if step not in dict(module.named_children()):
                    module.add_module(step, nn.Module())
                module = module.get_submodule(step)
            width, outputs = self.HEADS[place]
            module.add_module(name, nn.Module())
            head = module.get_submodule(name)
            head.conv_seg = nn.Linear(width, classes.get(place, outputs))
        return model

    @pytest.mark.parametrize(
        ('more', 'less', 'parts'),
        [
            (('decode_head', 'auxiliary_head'), ('decode_head',), ['auxiliary_head']),
            (('neck.0', 'decode_head', 'auxiliary_head'), ('neck.0',), ['auxiliary_head', 'decode_head']),
            (('roi_head.bbox_head', 'roi_head.mask_head'), ('roi_head.bbox_head',), ['roi_head.mask_head']),
            (('neck.0', 'neck.1'), ('neck.0',), ['neck.1']),
        ],
    )
    def test_of_one_of_the_two(self, more, less, parts, refused, save):
        more, less = self.build(*more), self.build(*less)
        tensors = ', '.join(f'{part} (2 tensors)' for part in reversed(parts))
        patterns = [f'{part}.*' for part in parts]
        count = 2 * len(parts)
        extra = (
            f'The file has {tensors}, which the model lacks, and all that the model has. To leave that out: may_differ='
        )
        refused(less, more.state_dict(), f'{count} UNEXPECTED in the file', f'{extra}{patterns}.')
        lacking = f'The file is incomplete: of all that the model has it lacks {tensors}. To start there from initial'
        refused(more, less.state_dict(), f'{count} MISSING', lacking, f'may_differ={patterns}.')
        report = load_pretrained(less, save(more.state_dict()), may_differ=patterns)
        assert (len(report.left_out), report.fresh) == (count, [])
        report = load_pretrained(more, save(less.state_dict()), may_differ=patterns)
        assert (len(report.fresh), report.left_out) == (count, [])

    def test_of_each(self, refused):
        model, other = self.build('decode_head', 'neck.0'), self.build('decode_head', 'auxiliary_head')
        said = "may_differ=['auxiliary_head.*', 'neck.*']"
        refused(model, other.state_dict(), 'which the model lacks. The file is incomplete', 'leave the one out', said)

    def test_beside_a_head_of_other_classes(self, refused, save):
        model, other = self.build('decode_head', decode_head=7), self.build('decode_head', 'auxiliary_head')
        patterns = ['auxiliary_head.*', 'decode_head.conv_seg.*']
        said = ('of other classes: 5 in the file, 7 in the model. One of the two lacks auxiliary_head.', str(patterns))
        refused(model, other.state_dict(), *said)
        load_pretrained(model, save(other.state_dict()), may_differ=patterns)

    def test_all_but_the_backbone(self, refused):
        """The file has other names, so it is not flat: a classifier of mmpretrain, or a model of another task."""
        model = self.build('decode_head', 'neck.0')
        state = {f'backbone.{name}': x for name, x in build(aggregator=LEARNABLE).state_dict().items()}
        head = {f'head.fc.{name}': x for name, x in nn.Linear(2, 2).state_dict().items()}
        without_scale = {name: x for name, x in state.items() if not name.endswith('.scale')}
        without_norms = {name: x for name, x in without_scale.items() if '.out_norms.' not in name}
        said = "Of the model's parts it holds backbone alone", "init_cfg=dict(type='Pretrained', checkpoint=...) of the"
        for content in (without_scale, without_scale | head, without_norms | head):
            refused(model, content, *said)
        model.backbone = build(aggregator=LEARNABLE)
        for content in (state, state | head, without_norms | head):
            refused(model, content, *said)

    def test_names_that_are_not_parts(self, refused):
        """Extra names beside others of the model, in its backbone, or in many places, are not parts."""
        model = self.build('decode_head')
        state = model.state_dict()
        many = {f'part_{i}.weight': torch.zeros(1) for i in range(5)}
        for extra in ({'decode_head.extra': torch.zeros(1)}, {'backbone.decoder.weight': torch.zeros(1)}, many):
            refused(model, state | extra, 'of another network, or incomplete')

    def test_without_a_sparx_backbone(self):
        """`StrictLoadHook` compares models with other networks like this."""
        more = nn.ModuleDict({name: nn.Linear(1, 1) for name in ('backbone', 'head', 'aux')})
        less = nn.ModuleDict({name: nn.Linear(1, 1) for name in ('backbone', 'head')})
        with pytest.raises(RuntimeError, match=r"To leave that out: may_differ=\['aux\.\*'\]"):
            match_weights(less, more.state_dict(), 'x')
        with pytest.raises(RuntimeError, match='of another network, or incomplete'):
            match_weights(less, {f'other_{name}': x for name, x in more.state_dict().items()}, 'x')

    def test_the_backbone_of_another_network(self):
        """mmengine needs the prefix of its names."""
        classifier, detector = (nn.ModuleDict({x: nn.Linear(1, 1) for x in ('backbone', x)}) for x in ('head', 'neck'))
        with pytest.raises(RuntimeError, match=r"checkpoint=\.\.\., prefix='backbone\.'\) of the backbone"):
            match_weights(detector, classifier.state_dict(), 'x')
