"""Finding the shipped configs, and flattened copies of them."""

import shutil

import pytest

pytest.importorskip('mmengine', reason='configs are read by mmengine')
from helpers.configs import CONFIGS
from mmengine.config import Config

from mmsparx import zoo
from mmsparx.zoo import shipped

LAZY = 'mask_rcnn_sparx_t_1x_lazy'


def test_all_runnable_configs_are_listed_by_task():
    configs = zoo.list_configs()
    expected = {path for path in CONFIGS.rglob('*.py') if '_base_' not in path.relative_to(CONFIGS).parts}
    assert {config.path for config in configs} == expected
    assert len({config.name for config in configs}) == len(configs), 'two configs of one name'
    assert [config.task for config in configs] == sorted(config.task for config in configs)
    assert {config.task for config in zoo.list_configs('detection')} == {'detection'}
    assert zoo.list_configs('detection') == [config for config in configs if config.task == 'detection']


def test_an_unknown_task():
    with pytest.raises(ValueError, match=r"unknown task 'pose'; expected one of .*detection"):
        zoo.list_configs('pose')


@pytest.mark.parametrize(
    'name',
    [
        'mask_rcnn_sparx_t_1x',
        'mask_rcnn_sparx_t_1x.py',
        'detection/mask_rcnn_sparx_t_1x',
        'configs/detection/mask_rcnn_sparx_t_1x.py',
    ],
)
def test_a_config_by_name(name):
    assert zoo.find_config(name) == CONFIGS / 'detection/mask_rcnn_sparx_t_1x.py'


def test_the_nearest_names_are_listed():
    with pytest.raises(ValueError, match=r"no config 'mask_rcn_sparx_t_1' in mmsparx; nearest: mask_rcnn_sparx_t_1x, "):
        zoo.find_config('mask_rcn_sparx_t_1')


@pytest.mark.parametrize('name', ['zzzzzz', 'rcnn_sparx_t_1x', 'segmentation/mask_rcnn_sparx_t_1x', ''])
def test_an_unknown_name(name):
    with pytest.raises(ValueError, match=r"no config '.*' in mmsparx; .*'mmsparx configs' lists all"):
        zoo.find_config(name)


def test_a_file_goes_before_a_shipped_config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = 'mask_rcnn_sparx_t_1x.py'
    assert zoo.resolve_config(name) == CONFIGS / 'detection' / name
    (tmp_path / name).touch()
    assert zoo.resolve_config(name).resolve() == tmp_path / name
    with pytest.raises(ValueError, match=r"no config file 'mine/mask_rcnn_sparx_t_1x\.py' in .*nearest: mask_rcnn"):
        zoo.resolve_config('mine/mask_rcnn_sparx_t_1x.py')


def test_the_configs_of_an_installed_package(tmp_path, monkeypatch):
    """They are in the package, and files beside it are not taken for configs."""
    monkeypatch.setattr(shipped, 'PACKAGE', tmp_path / 'mmsparx')
    with pytest.raises(FileNotFoundError, match='install the package again'):
        zoo.list_configs()
    (tmp_path / 'configs').mkdir()
    shutil.copytree(CONFIGS / 'detection', tmp_path / 'mmsparx/.mim/configs/detection')
    found = zoo.find_config('mask_rcnn_sparx_t_1x')
    assert found == tmp_path / 'mmsparx/.mim/configs/detection/mask_rcnn_sparx_t_1x.py'


def read(name, task, folder):
    """(a config as shipped, as exported)."""
    pytest.importorskip({'detection': 'mmdet', 'segmentation': 'mmseg', 'classification': 'mmpretrain'}[task])
    path = zoo.export_config(name, folder)
    assert path == folder / f'{name}.py'
    return Config.fromfile(zoo.find_config(name)), Config.fromfile(path)


@pytest.mark.parametrize(
    ('name', 'task'),
    [
        ('mask_rcnn_sparx_t_3x', 'detection'),
        ('upernet_sparx_t_160k', 'segmentation'),
        ('sparx_mamba_t_in1k', 'classification'),
    ],
)
def test_an_exported_config_is_equal(name, task, tmp_path):
    cfg, exported = read(name, task, tmp_path)
    assert exported._cfg_dict == cfg._cfg_dict
    assert exported.custom_imports.imports == ['mmsparx.models']
    assert '_base_' not in exported.filename + exported.text
    assert str(CONFIGS) not in exported.text


def test_an_exported_pure_python_config_is_equal(tmp_path):
    cfg, exported = read(LAZY, 'detection', tmp_path)
    assert exported.pretty_text == cfg.pretty_text
    assert exported.model.backbone.type == 'mmsparx.models.SparXMamba'


def test_where_an_exported_config_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    target = tmp_path / 'new' / 'mine.py'
    assert zoo.export_config(LAZY, target) == target
    assert zoo.export_config(LAZY).resolve() == tmp_path / f'{LAZY}.py'
    target.write_text('mine')
    with pytest.raises(FileExistsError, match=r'mine\.py exists already; .*--force'):
        zoo.export_config(LAZY, target)
    assert target.read_text() == 'mine'
    zoo.export_config(LAZY, target, force=True)
    assert 'SparXMamba' in target.read_text()
    with pytest.raises(ValueError, match=r"a folder or the name of a \.py file to write to, got 'mine\.json'"):
        zoo.export_config(LAZY, 'mine.json')
