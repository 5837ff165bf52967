"""SparX backbones and a bundled selective scan for OpenMMLab.

Importing the package costs nothing: `mmsparx.ops` needs torch alone, `mmsparx.models` adds
mmengine, and the configs add mmdet, mmsegmentation or mmpretrain. `mmsparx.load_pretrained` is that
of `mmsparx.models`, imported when it is asked for. `import mmsparx.timm` registers the networks with timm.
"""

from mmsparx.version import __version__

__all__ = ['__version__', 'load_pretrained']


def __getattr__(name: str):
    if name == 'load_pretrained':
        from mmsparx.models import load_pretrained

        return load_pretrained
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
