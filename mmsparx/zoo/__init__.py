"""The shipped configs: which there are, what the paper reports for them, and flattened copies of them.

`mmsparx configs` and `mmsparx export-config` are its commands. Importing it needs the standard library alone; reading a
config or a metafile needs mmengine.
"""

from mmsparx.zoo.figures import PaperFigure, paper_figures
from mmsparx.zoo.shipped import (
    ShippedConfig,
    export_config,
    find_config,
    list_configs,
    read_collections,
    read_models,
    resolve_config,
)

__all__ = [
    'PaperFigure',
    'ShippedConfig',
    'export_config',
    'find_config',
    'list_configs',
    'paper_figures',
    'read_collections',
    'read_models',
    'resolve_config',
]
