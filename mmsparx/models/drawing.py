"""Connection plans as images; free of torch."""

from xml.etree import ElementTree

from mmsparx.models.architecture import Architecture
from mmsparx.models.connection import StagePlan

# Sizes in pixels of the image.
PITCH, RADIUS, LEFT, MARGIN, LINE = 46, 14, 36, 20, 18
LEGEND_WIDTH = 330
INK, GANGLION = '#37474f', '#e65100'
# Colours of the features that a ganglion layer reads.
FROM_INPUT, FROM_NORMAL, FROM_GANGLION = '#607d8b', '#1565c0', GANGLION


def draw_plan(arch: Architecture) -> str:
    """Draw which layer reads which, stage by stage.

    A circle is a layer, filled if it is a ganglion layer, and a square the input of a stage. Lines lead from layer to
    layer, and arcs from what a ganglion layer reads besides.

    Args:
        arch: Sizes of a network, as `SparXMamba.ARCHITECTURES['tiny']` or the attribute `arch` of a network.

    Returns:
        Text of an SVG file; the same sizes always give the same text.
    """
    svg = ElementTree.Element('svg', xmlns='http://www.w3.org/2000/svg')
    _add(svg, 'title', text='Connection plan')
    _add(svg, 'desc', text=str(arch))
    background = _add(svg, 'rect', rx=8, fill='#ffffff')
    for name, colour in (('input', FROM_INPUT), ('normal', FROM_NORMAL), ('ganglion', FROM_GANGLION)):
        marker = _add(svg, 'marker', id=name, viewBox='0 0 8 8', refX=7, refY=4, markerWidth=6, orient='auto')
        _add(marker, 'path', d='M0 0 8 4 0 8z', fill=colour)

    y = 0
    for i, (channels, plan) in enumerate(zip(arch.channels, arch.stages, strict=True)):
        title = f'stage {i + 1}: {channels} channels, stride {4 * 2**i}{plan.connections}'
        _add(svg, 'text', title, x=MARGIN, y=y + 2 * LINE, fill=INK, font_weight='bold')
        above = max((_height(layer + 1 - j) for layer in range(plan.depth) for j in plan.sources(layer)), default=0)
        y += 3 * LINE + above // 2 + RADIUS
        _draw_stage(svg, plan, y)
        y += RADIUS + LINE
    for text, options in (
        ('normal layer', dict(fill='#ffffff', stroke=INK)),
        ('ganglion layer; arcs lead from the features that it reads', dict(fill=GANGLION, stroke=GANGLION)),
    ):
        y += LINE
        _add(svg, 'circle', cx=LEFT, cy=y - 4, r=6, stroke_width=2, **options)
        _add(svg, 'text', text, x=LEFT + 16, y=y, fill=INK)
    width = max(LEFT + PITCH * max(plan.depth for plan in arch.stages) + RADIUS, LEFT + LEGEND_WIDTH) + MARGIN
    height = y + MARGIN
    for element in (svg, background):
        element.attrib |= {'width': str(width), 'height': str(height)}
    svg.attrib |= {'viewBox': f'0 0 {width} {height}', 'font-family': 'sans-serif', 'font-size': '13'}
    ElementTree.indent(svg)
    return ElementTree.tostring(svg, encoding='unicode') + '\n'


def _draw_stage(svg: ElementTree.Element, plan: StagePlan, y: int) -> None:
    """Draw the features of a stage in a row, and the arcs above them."""
    features = [LEFT + PITCH * j for j in range(plan.depth + 1)]  # the input, and the output of each layer
    _add(svg, 'path', d=f'M{features[0]} {y} H{features[-1]}', stroke=INK, stroke_width=2)
    for layer in plan.ganglia:
        for j in plan.sources(layer):
            kind = 'input' if j == 0 else 'ganglion' if j - 1 in plan.ganglia else 'normal'
            colour = {'input': FROM_INPUT, 'normal': FROM_NORMAL, 'ganglion': FROM_GANGLION}[kind]
            start, end = features[j] + 4, features[layer + 1] - 4
            top = y - RADIUS
            curve = f'M{start} {top} Q{(start + end) // 2} {top - _height(layer + 1 - j)} {end} {top}'
            _add(svg, 'path', d=curve, stroke=colour, stroke_width=1.5, fill='none', marker_end=f'url(#{kind})')
    _add(
        svg, 'rect', x=LEFT - RADIUS, y=y - RADIUS, width=2 * RADIUS, height=2 * RADIUS, rx=3, fill='#eceff1',
        stroke=INK, stroke_width=2,
    )  # fmt: skip
    _add(svg, 'text', 'in', x=LEFT, y=y + 4, fill=INK, text_anchor='middle')
    for layer, x in enumerate(features[1:]):
        ganglion = layer in plan.ganglia
        fill, stroke, ink = (GANGLION, GANGLION, '#ffffff') if ganglion else ('#ffffff', INK, INK)
        _add(svg, 'circle', cx=x, cy=y, r=RADIUS, fill=fill, stroke=stroke, stroke_width=2)
        _add(svg, 'text', str(layer), x=x, y=y + 4, fill=ink, text_anchor='middle')


def _height(distance: int) -> int:
    """Height of the middle point of an arc, of which the arc reaches half."""
    return 16 + 18 * min(distance, 9)


def _add(parent: ElementTree.Element, tag: str, text: str | None = None, **attributes) -> ElementTree.Element:
    names = {name.rstrip('_').replace('_', '-'): str(value) for name, value in attributes.items()}
    element = ElementTree.SubElement(parent, tag, names)
    element.text = text
    return element
