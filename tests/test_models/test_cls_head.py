"""The published head in mmpretrain's ImageClassifier."""

import pytest
import torch

pytest.importorskip('mmpretrain', reason='the head is one of mmpretrain')
from helpers import SMALL_ARCH, randomise, relative_error
from helpers.weights import build_classifier, published_classifier
from mmengine.registry import MODELS, init_default_scope
from mmpretrain.structures import DataSample

from mmsparx.models import SparXClassifier, SparXSwin, VMamba, load_pretrained
from mmsparx.models.heads import SparXClsHead, cls_head


def build(num_classes=5, **head):
    init_default_scope('mmpretrain')
    return MODELS.build(
        {
            'type': 'ImageClassifier',
            'backbone': {
                'type': 'mmsparx.SparXMamba', 'arch': SMALL_ARCH, 'out_indices': (3,), 'output_norm': False,
            },
            'head': {'type': 'mmsparx.SparXClsHead', 'in_channels': 32, 'num_classes': num_classes, **head},
        }
    )  # fmt: skip


def samples(*labels):
    return [DataSample().set_gt_label(label) for label in labels]


def test_logits_and_names_are_those_of_the_classifier():
    model, classifier = build(), randomise(build_classifier())
    assert isinstance(model.head, SparXClsHead)
    model.load_state_dict(classifier.state_dict())  # strictly
    x = torch.randn(2, 3, 64, 64)
    assert torch.equal(model.eval()(x), classifier.eval()(x))


def test_it_is_imported_from_the_package_of_heads():
    assert SparXClsHead is cls_head.SparXClsHead
    with pytest.raises(ImportError, match="cannot import name 'SparXHead'"):
        exec('from mmsparx.models.heads import SparXHead')


def test_a_pure_python_config_names_the_class():
    init_default_scope('mmpretrain')
    head = MODELS.build({'type': SparXClsHead, 'in_channels': 32, 'num_classes': 5})
    assert isinstance(head, SparXClsHead)


def test_the_published_file(save):
    model, classifier = build(), build_classifier()
    path = save(published_classifier())
    report = load_pretrained(model, path)
    assert (report.share, report.fresh, report.left_out) == (1, [], [])
    load_pretrained(classifier, path)
    x = torch.randn(2, 3, 64, 64)
    assert relative_error(model.eval()(x), classifier.eval()(x)) == 0


def test_a_file_that_does_not_match(save):
    path = save({name: x for name, x in published_classifier().items() if name != 'classifier.0.weight'})
    with pytest.raises(RuntimeError, match=r'1 MISSING in the file: head\.norm\.weight'):
        load_pretrained(build(), path)


def test_other_classes(save):
    path = save(published_classifier())
    with pytest.raises(RuntimeError, match=r"5 in the file, 7 in the model.*may_differ=\['head\.fc\.\*'\]"):
        load_pretrained(build(num_classes=7), path)
    assert load_pretrained(build(num_classes=7), path, may_differ='head.fc.*').fresh == [
        'head.fc.weight',
        'head.fc.bias',
    ]


def test_loss_and_prediction():
    """Label smoothing spreads 0.1 over the classes, for mixed labels, too."""
    model = randomise(build(loss={'type': 'LabelSmoothLoss', 'label_smooth_val': 0.1, 'mode': 'original'})).eval()
    x = torch.randn(2, 3, 64, 64)
    logits = model(x)
    target = torch.eye(5)[[1, 4]]
    loss = model(x, samples(1, 4), mode='loss')['loss']
    expected = torch.nn.functional.cross_entropy(logits, 0.9 * target + 0.02)
    assert relative_error(loss, expected) < 1e-6
    mixed = torch.tensor([[0.3, 0, 0.7, 0, 0], [0, 1, 0, 0, 0]])
    scored = [sample.set_gt_score(score) for sample, score in zip(samples(1, 4), mixed, strict=True)]
    expected = torch.nn.functional.cross_entropy(logits, 0.9 * mixed + 0.02)
    assert relative_error(model(x, scored, mode='loss')['loss'], expected) < 1e-6
    predicted = model(x, samples(1, 4), mode='predict')
    assert torch.equal(torch.stack([sample.pred_score for sample in predicted]), logits.softmax(1))
    assert [sample.pred_label.item() for sample in predicted] == logits.argmax(1).tolist()


@pytest.mark.parametrize(('family', 'style'), [(SparXSwin, 'swin'), (VMamba, 'vmamba')])
def test_other_styles(family, style):
    init_default_scope('mmpretrain')
    backbone = {
        'type': f'mmsparx.{family.__name__}', 'arch': SMALL_ARCH, 'out_indices': (3,), 'output_norm': False,
    }  # fmt: skip
    head = {'type': 'mmsparx.SparXClsHead', 'in_channels': 32, 'num_classes': 5, 'style': style}
    model = MODELS.build({'type': 'ImageClassifier', 'backbone': backbone, 'head': head})
    classifier = randomise(SparXClassifier(family(SMALL_ARCH, out_indices=(3,), output_norm=False), 5))
    model.load_state_dict(classifier.state_dict())  # strictly
    x = torch.randn(2, 3, 64, 64)
    assert torch.equal(model.eval()(x), classifier.eval()(x))


def test_the_style_of_another_backbone(save):
    """Its norm has the same weights, so that a file would fit and the results would be wrong."""
    init_default_scope('mmpretrain')
    backbone = {'type': 'mmsparx.VMamba', 'arch': SMALL_ARCH, 'out_indices': (3,), 'output_norm': False}
    head = {'type': 'mmsparx.SparXClsHead', 'in_channels': 32, 'num_classes': 5}
    model = MODELS.build({'type': 'ImageClassifier', 'backbone': backbone, 'head': head})
    path = save(model.state_dict())
    said = r"the norm of the backbone, a VMamba with 'LN2d', got a style with 'GN'\..* style='vmamba'"
    with pytest.raises(ValueError, match=said):
        load_pretrained(model, path)
    # A head with the same norm loads the weights: swin's is vmamba's.
    head['style'] = 'swin'
    load_pretrained(MODELS.build({'type': 'ImageClassifier', 'backbone': backbone, 'head': head}), path)


def test_pre_logits():
    model = build().eval()
    x = torch.randn(2, 3, 64, 64)
    features = model.extract_feat(x, stage='pre_logits')
    assert features.shape == (2, 32)
    assert torch.equal(model.head.fc(features), model(x))


def test_it_starts_as_published():
    model = build(num_classes=1000)
    model.init_weights()  # as the runner does
    weight = model.head.fc.weight
    assert model.head.fc.bias.eq(0).all()
    assert weight.std().item() == pytest.approx(0.02, rel=5 / (2 * weight.numel()) ** 0.5)


def test_bad_options():
    with pytest.raises(ValueError, match='num_classes of at least 1, got 0'):
        build(num_classes=0)
    with pytest.raises(ValueError, match="unknown style 'convnext'; known ones: sparx, vmamba, swin"):
        build(style='convnext')
    with pytest.raises(TypeError, match='topks'):
        build(topks=5)
