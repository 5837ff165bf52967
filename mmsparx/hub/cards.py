"""The model card: README.md of a folder, from the metafile of the network's figures."""

from collections.abc import Mapping

from mmsparx.hub.names import published_model
from mmsparx.version import __version__
from mmsparx.zoo import paper_figures, read_collections

# The aggregator of the published networks, whose scale is learnable in the detectors.
_PUBLISHED_AGGREGATORS = ({'type': 'DMCA'}, {'type': 'DMCA', 'learnable_scale': True})


def model_card(config: Mapping, parameters: int, pipeline_tag: str, license: str, repo_id: str | None = None) -> str:
    """The text of a model card.

    The paper's figures stand in a table that says whose they are, and not in the metadata, where the Hub would show
    them as results of these weights.

    Args:
        config: Content of config.json.
        parameters: Number of parameters of the network.
        pipeline_tag: The task's name on the Hub.
        license: Licence of the weights, by its identifier on the Hub.
        repo_id: Repository that the card is for; None for a folder.
    """
    backbone = config.get('backbone', config)
    family, arch = backbone['type'], backbone.get('arch', 'tiny')
    sizes = f' {arch}' if isinstance(arch, str) else ''
    has_timm = 'architecture' in config
    tags = [pipeline_tag, 'mmsparx', 'sparx', *(['timm'] if has_timm else [])]
    lines = [
        '---',
        'library_name: mmsparx',
        f'license: {license}',
        f'pipeline_tag: {pipeline_tag}',
        'tags:',
        *(f'- {tag}' for tag in tags),
        '---',
        '',
        f'# {repo_id.rpartition("/")[2] if repo_id else f"{family}{sizes}"}',
        '',
        f'{_described(config, f"{family}{sizes}", parameters)} Written by mmsparx {__version__}.',
        '',
        '## Use',
        '',
        *_usage(config['type'], has_timm, pipeline_tag, repo_id),
    ]
    model = None
    if isinstance(arch, str) and _is_published(backbone):
        model = published_model(family, arch)
    if model is not None:
        lines += ['', *_figures(model)]
    return '\n'.join(lines) + '\n'


def _is_published(backbone: Mapping) -> bool:
    """Whether a network of named sizes is of the published design."""
    changed = any(backbone.get(name) is not None for name in ('style', 'token_mixer'))
    aggregator = backbone.get('aggregator')
    kept = aggregator is None or aggregator in _PUBLISHED_AGGREGATORS
    return kept and not changed and backbone.get('in_channels', 3) == 3


def _described(config: Mapping, network: str, parameters: int) -> str:
    size = f'{parameters / 1e6:.1f} M parameters'
    if 'backbone' in config:
        return f'A classifier of {config["num_classes"]} classes over {network}, of {size}.'
    return f'The backbone {network}, of {size}.'


def _usage(cls: str, has_timm: bool, pipeline_tag: str, repo_id: str | None) -> list[str]:
    place = repo_id or 'path/to/folder'
    lines = [
        "    pip install 'mmsparx[hub]'",
        '',
        '```python',
        f'from mmsparx.models import {cls}',
        '',
        f'model = {cls}.from_pretrained({place!r})  # in evaluation mode',
        '```',
    ]
    if has_timm:
        scheme = 'hf-hub' if repo_id else 'local-dir'
        options = '' if pipeline_tag == 'image-classification' else ', features_only=True'
        lines += [
            '',
            'In timm:',
            '',
            '```python',
            'import timm',
            'import mmsparx.timm  # registers the networks',
            '',
            f'model = timm.create_model({f"{scheme}:{place}"!r}, pretrained=True{options})',
            '```',
        ]
    return lines


def _figures(model: Mapping) -> list[str]:
    """The section of a metafile's entry."""
    paper = read_collections('classification')[model['In Collection']]['Paper']
    params, flops = paper_figures(model)
    result = model['Results'][0]
    source = result['Source'].replace('paper,', 'SparX paper,')
    rows = [
        *((f'{metric}, {result["Dataset"]}', f'{value} %') for metric, value in result['Metrics'].items()),
        ('parameters, with a head of 1000 classes', f'{params} M'),
        ('multiply-adds of an image of 224x224', f'{flops} G'),
    ]
    return [
        '## Figures of the paper',
        '',
        'These are reported figures of the published network, and **not measurements of the weights in this folder**.',
        f'The network is of [{paper["Title"]}]({paper["URL"]}).',
        '',
        '| figure | reported | source |',
        '|---|---|---|',
        *(f'| {name} | {value} | {source} |' for name, value in rows),
    ]
