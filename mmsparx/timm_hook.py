"""Registers the networks with timm when timm is imported, and not before: importing it takes seconds."""

import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

_TIMM = 'timm.models'


def register_with_timm() -> None:
    """Import `mmsparx.timm` as soon as `timm.models` is imported, or now if it is."""
    if _TIMM in sys.modules:
        _register()
    elif not any(isinstance(finder, _AfterTimm) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AfterTimm())


class _AfterTimm(MetaPathFinder):
    """Finds what the other finders find, and has `mmsparx.timm` imported after `timm.models`."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != _TIMM:
            return None
        specs = (finder.find_spec(name, path, target) for finder in sys.meta_path if finder is not self)
        spec = next((spec for spec in specs if spec is not None), None)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                execute(module)
                _register()

            spec.loader.exec_module = exec_module
        return spec


def _register() -> None:
    try:
        import_module('mmsparx.timm')
    except ImportError as error:  # an older timm must still be usable
        warnings.warn(
            f"mmsparx's networks are not registered with timm, which needs 1.0 or newer: {error}", stacklevel=2
        )
