"""The report of a load: share, table, all names."""

from mmsparx.models import LoadReport


def report(**lists) -> LoadReport:
    sizes = {
        'backbone.stem.0.weight': 1000,
        'backbone.stages.0.layers.0.norm1.weight': 10,
        'backbone.stages.0.layers.0.norm1.bias': 10,
        'backbone.stages.1.layers.0.norm1.weight': 80,
        'neck.weight': 899,
        'roi_head.fc.bias': 1,
    }
    return LoadReport('x.pth', sizes, **lists)


def test_share():
    part = report(matched=['backbone.stem.0.weight', 'roi_head.fc.bias', 'neck.weight'])
    assert part.share == 0.95
    assert LoadReport('x.pth').share == 1


def test_ok():
    assert report(fresh=['a'], left_out=['b']).ok
    for lists in (dict(missing=['a']), dict(unexpected=['a']), dict(wrong_shape={'a': ((1,), (2,))})):
        assert not report(**lists).ok


def test_table():
    matched = [name for name in report().sizes if not name.endswith('norm1.bias')]
    lists = dict(matched=matched, missing=['backbone.stages.0.layers.0.norm1.bias'], left_out=list('abcdef'))
    assert str(report(**lists, wrong_shape={'k': ((1, 2), (3,))})) == '\n'.join([
        'weights from x.pth: 5 of 6 tensors match, 99.5 % of the elements',
        '  part               tensors  match  elements  match  share',
        '  backbone.stem            1      1     1,000  1,000  100 %',
        '  backbone.stages.0        2      1        20     10   50 %',
        '  backbone.stages.1        1      1        80     80  100 %',
        '  neck                     1      1       899    899  100 %',
        '  roi_head                 1      1         1      1  100 %',
        '  1 MISSING in the file: backbone.stages.0.layers.0.norm1.bias',
        '  1 of ANOTHER SHAPE: k (model (1, 2), file (3,))',
        '  6 in the file, not in the model, left out: a, b, c, d, ... (2 more)',
    ])  # fmt: skip


def test_a_hundred_percent_is_all():
    nearly = LoadReport('x.pth', {'a': 10**9, 'b': 1}, matched=['a'])
    assert '99.99 % of the elements' in nearly.summary()


def test_parts_of_a_backbone_alone():
    names = ['stem.0.weight', 'stages.0.layers.0.norm1.weight', 'stages.10.downsample.0.weight', 'out_norms.0.bias']
    assert list(LoadReport('x', dict.fromkeys(names, 1)).parts()) == ['stem', 'stages.0', 'stages.10', 'out_norms']
