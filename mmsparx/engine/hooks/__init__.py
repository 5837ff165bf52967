"""Hooks, registered as `mmsparx.Name`."""

from mmsparx.engine.hooks.iteration_seed import IterationSeedHook

__all__ = ['IterationSeedHook']
