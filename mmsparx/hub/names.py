"""The name of a network of a named size in timm, and in the metafile of its figures."""

from mmsparx.zoo import read_models

# Prefixes of timm's names of a family's networks, and of the names of its configs.
PREFIXES = {'SparXMamba': 'sparx_mamba', 'SparXSwin': 'sparx_swin', 'VMamba': 'vmamba'}


def published_model(family: str, arch: str) -> dict | None:
    """The entry of a network's classifier in the metafile, with the paper's figures and the address of the weights.

    Args:
        family: Name of the network's class, as 'SparXMamba'.
        arch: Name of its sizes, as 'tiny'.

    Returns:
        The entry; None where there is none.
    """
    size, _, variant = arch.partition('_')
    parts = (PREFIXES.get(family, family), size[:1], *filter(None, [variant]), 'in1k')
    return read_models('classification').get('_'.join(parts))
