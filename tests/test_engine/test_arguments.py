"""The arguments that a class takes."""

import pytest
import torch

from mmsparx.engine.arguments import accepted_arguments, find_classes


class Base:
    def __init__(self, a, *, b=1):
        pass


class PassesOn(Base):
    def __init__(self, c, **kwargs):
        super().__init__(3, **kwargs)


class Inherits(PassesOn):
    pass


class ReadsSome(Base):
    def __init__(self, **options):
        self.d = options.pop('d', None) or options['e'] or 'f' in options


class Swallows(Base):
    def __init__(self, g, **kwargs):
        super().__init__(g)


class Keeps(Base):
    def __init__(self, **kwargs):
        self.all = kwargs


class KeepsAtLast(PassesOn, Keeps):
    pass


class HandsOut(Base):
    def __init__(self, **kwargs):
        super().__init__(1)
        self.other = dict(**kwargs)


def function(x, *, y):
    pass


@pytest.mark.parametrize(
    ('target', 'expected'),
    [
        (Base, {'a', 'b'}),
        (PassesOn, {'a', 'b', 'c'}),
        (Inherits, {'a', 'b', 'c'}),
        (ReadsSome, {'d', 'e', 'f'}),
        (Swallows, {'g'}),
        (Keeps, None),
        (KeepsAtLast, None),
        (HandsOut, None),
        (function, {'x', 'y'}),
        (lambda **kwargs: kwargs, None),
    ],
)
def test_accepted_arguments(target, expected):
    assert accepted_arguments(target) == expected


def test_an_optimizer_of_torch():
    assert {'lr', 'betas', 'weight_decay'} < accepted_arguments(torch.optim.AdamW)
    assert 'weigth_decay' not in accepted_arguments(torch.optim.AdamW)


def test_arguments_that_a_metric_of_mmseg_ignores_are_not_accepted():
    """It drops its `**kwargs`."""
    pytest.importorskip('mmseg')
    (metric,) = find_classes('IoUMetric', 'val_evaluator', 'mmseg')
    accepted = accepted_arguments(metric)
    assert 'iou_metrics' in accepted
    assert 'iou_metriks' not in accepted


def test_classes_are_looked_up_as_their_section_does():
    assert find_classes('SS2D', 'model', 'mmengine')[0].__name__ == 'SS2D'
    assert find_classes('mmsparx.NaNGuardHook', 'custom_hooks', None)[0].__name__ == 'NaNGuardHook'
    assert find_classes(torch.optim.SGD, 'optim_wrapper', None) == [torch.optim.SGD]
    assert find_classes('SGD', 'model', 'mmengine') == []
