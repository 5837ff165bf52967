"""Hooks of this package in a config: each of them once, and a warning for a missing one."""

import pytest
from helpers import SMALL_ARCH
from helpers.configs import CONFIGS
from mmengine.config import Config, ConfigDict
from mmengine.registry import HOOKS

from mmsparx.engine import NaNGuardHook, run_hooks
from mmsparx.engine.command_line import harden
from mmsparx.engine.options import apply_options
from mmsparx.engine.run_hooks import EXPECTED, merge_hooks, warn_of_missing_hooks

BASE = Config.fromfile(CONFIGS / '_base_/sparx_runtime.py').custom_hooks
MODEL = dict(type='mmsparx.SparXMamba', arch=SMALL_ARCH)
EMA = dict(type='EMAHook')
UNUSED_OUTPUTS = ConfigDict(type='mmsparx.UnusedOutputsHook')  # the tools add it
ALL = [cls.__name__ for cls in EXPECTED]


@pytest.fixture
def warned(monkeypatch):
    """Returns the warnings about a config's hooks."""
    lines = []
    monkeypatch.setattr(run_hooks, 'print_log', lambda message, **_: lines.append(message))

    def warned(hooks, model=MODEL, **settings):
        lines.clear()
        warn_of_missing_hooks(Config(dict(model=model, custom_hooks=hooks, **settings)))
        return list(lines)

    return warned


def test_they_are_those_of_the_base_configs():
    names = {hook['type'].removeprefix('mmsparx.') for hook in BASE}
    assert names == {*ALL, 'StrictLoadHook'}  # the tools add it


class TestMissing:
    @pytest.mark.parametrize('lacking', ALL)
    def test_each_is_named(self, lacking, warned):
        hooks = [hook for hook in BASE if hook['type'] != f'mmsparx.{lacking}']
        (said,) = warned([*hooks, EMA])
        assert f'  {lacking}: ' in said
        assert f"add dict(type='mmsparx.{lacking}')." in said
        assert f'without_hooks = {[lacking]}' in said
        for other in {*ALL} - {lacking}:
            assert other not in said

    @pytest.mark.parametrize('hooks', [[EMA], [], None])
    def test_all_of_them(self, hooks, warned):
        (said,) = warned(hooks)
        assert [name in said for name in ALL] == [True] * len(ALL)
        assert 'custom_hooks = [*_base_.custom_hooks, ...]' in said

    def test_its_suggestion_works(self, warned):
        assert warned([*BASE, EMA]) == []
        assert warned([EMA, *(dict(type=f'mmsparx.{name}') for name in ALL)]) == []
        assert warned([EMA], without_hooks=ALL) == []
        (said,) = warned([EMA], without_hooks=ALL[:1])
        assert ALL[0] not in said.partition('To go without')[0]

    def test_classes_and_derived_ones_count(self, warned, monkeypatch):
        class MyGuard(NaNGuardHook):
            pass

        monkeypatch.setitem(HOOKS.module_dict, 'MyGuard', MyGuard)
        hooks = [hook for hook in BASE if hook['type'] != 'mmsparx.NaNGuardHook']
        assert warned([*hooks, dict(type='MyGuard')]) == []
        assert warned([*hooks, dict(type=NaNGuardHook)]) == []
        assert warned([*hooks, dict(type='mmsparx.engine.nan_guard.NaNGuardHook')]) == []

    def test_a_model_without_a_network_of_this_package(self, warned):
        assert warned([EMA], model=dict(type='mmengine.BaseModel')) == []
        assert len(warned([EMA], model=dict(type='Mine', detector=dict(backbone=MODEL)))) == 1

    def test_the_first_process_alone_warns(self, warned, monkeypatch):
        monkeypatch.setenv('RANK', '1')
        assert warned([EMA]) == []

    @pytest.mark.parametrize('names', [['NaNGuard'], 'NaNGuardHook', ['StrictLoadHook']])
    def test_a_wrong_name_of_a_hook_that_is_left_out(self, names, warned):
        with pytest.raises(ValueError, match='without_hooks: expected a list of some of IterationSeedHook, '):
            warned([EMA], without_hooks=names)

    def test_the_option(self):
        cfg = Config(dict(custom_hooks=[EMA]))
        apply_options(cfg, {'without_hooks': ALL})
        assert cfg.without_hooks == ALL


class TestTwice:
    def test_later_settings_are_added(self):
        guard, check = dict(type='mmsparx.NaNGuardHook'), dict(type='mmsparx.engine.LabelCheckHook')
        cfg = Config(
            dict(
                custom_hooks=[
                    *(guard | dict(interval=5), EMA, check),
                    *(guard | dict(action='rewind'), EMA, dict(type='mmsparx.LabelCheckHook', spare_classes=True)),
                ]
            )
        )
        changes = merge_hooks(cfg)
        assert [hook.to_dict() for hook in cfg.custom_hooks] == [
            guard | dict(interval=5, action='rewind'),
            EMA,
            dict(type='mmsparx.LabelCheckHook', spare_classes=True),
            EMA,
        ]
        assert [change.split()[1] for change in changes] == ['NaNGuardHook', 'LabelCheckHook']

    def test_strict_loading_stays_as_it_is(self):
        hooks = [dict(type='mmsparx.StrictLoadHook'), dict(type='mmsparx.StrictLoadHook', may_differ='head.*')]
        cfg = Config(dict(custom_hooks=hooks, default_hooks=dict(checkpoint=None)))
        assert merge_hooks(cfg) == []
        harden(cfg)
        assert cfg.custom_hooks == [*hooks, UNUSED_OUTPUTS]

    def test_the_tools_do_so(self):
        cfg = Config(dict(custom_hooks=[*BASE, dict(type='mmsparx.NaNGuardHook', action='rewind')]))
        harden(cfg)
        assert [hook.type for hook in cfg.custom_hooks] == [hook.type for hook in [*BASE, UNUSED_OUTPUTS]]
        assert [hook.get('action') for hook in cfg.custom_hooks] == [None, 'rewind', *[None] * 4]
