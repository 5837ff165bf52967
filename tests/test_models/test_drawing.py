"""Connection plans as images."""

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from helpers import SMALL_ARCH

pytest.importorskip('mmengine', reason='the networks need mmengine')
from mmsparx.models import SparXMamba, SparXSwin, VMamba, draw_plan
from mmsparx.models.architecture import Architecture

IMAGES = Path(__file__).parents[2] / 'docs/images'
SVG = '{http://www.w3.org/2000/svg}'
CURVE = re.compile(r'M(\d+) (\d+) Q(\d+) (\d+) (\d+) (\d+)')
ARCHITECTURES = {
    **{
        f'{cls.__name__}-{name}': arch
        for cls in (SparXMamba, SparXSwin, VMamba)
        for name, arch in cls.ARCHITECTURES.items()
    },
    'dense': Architecture((8, 16), ({'depth': 3, 'stride': 2, 'dense': True}, {'depth': 4, 'stride': 2, 'window': 2})),
    'small': Architecture(**SMALL_ARCH),
}


@pytest.mark.parametrize('name', ['tiny', 'base'])
def test_committed_images_are_up_to_date(name):
    committed = (IMAGES / f'plan_sparx_mamba_{name}.svg').read_text()
    assert committed == draw_plan(SparXMamba.ARCHITECTURES[name])


@pytest.mark.parametrize('name', ARCHITECTURES)
def test_every_connection_is_drawn(name):
    """A filled circle for each ganglion layer, and an arc from each feature that it reads, by its ends."""
    arch = ARCHITECTURES[name]
    svg = ElementTree.fromstring(draw_plan(arch))
    assert svg.find(f'{SVG}desc').text == str(arch)
    width, height = float(svg.get('width')), float(svg.get('height'))
    layers = [each for each in svg.iter(f'{SVG}circle') if each.get('r') == '14']
    xs = sorted({int(each.get('cx')) for each in layers} | {int(layers[0].get('cx')) - 46})
    assert len(layers) == arch.depth
    assert sum(each.get('fill') != '#ffffff' for each in layers) == sum(len(stage.ganglia) for stage in arch.stages)
    drawn = []
    for path in svg.iter(f'{SVG}path'):
        if path.get('marker-end'):
            start, y, _, top, end, _ = map(int, CURVE.fullmatch(path.get('d')).groups())
            drawn.append((y, xs.index(start - 4), xs.index(end + 4) - 1))
            assert 0 < top < y < height
    rows = sorted({int(each.get('cy')) for each in layers})
    expected = [
        (row - 14, j, layer)
        for row, stage in zip(rows, arch.stages, strict=True)
        for layer in range(stage.depth)
        for j in stage.sources(layer)
    ]
    assert sorted(drawn) == sorted(expected)
    assert max(xs) + 14 < width


def test_the_example_of_the_paper():
    """SparX-Mamba-T has 13 layers, 7 of them ganglion layers."""
    svg = ElementTree.fromstring(draw_plan(SparXMamba.ARCHITECTURES['tiny']))
    circles = [each for each in svg.iter(f'{SVG}circle') if each.get('r') == '14']
    assert [each.get('fill') == '#e65100' for each in circles] == [bool(int(x)) for x in '0001' + '1010101' + '11']
