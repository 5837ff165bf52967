"""The package outside its repository: in an empty folder, with configs and Runner of the libraries."""

import importlib.util
import os
import subprocess
import sys

import cv2
import numpy as np
import pytest
from helpers import SMALL_ARCH

pytest.importorskip('mmengine', reason='configs are read by mmengine')
from mmengine.config import Config
from mmengine.config.utils import ConfigParsingError
from yapf.yapflib.yapf_api import FormatCode

# Another plugin, with a scope, a hook and a backbone of its own, which has the name of one of ours.
NEIGHBOUR = """
from mmengine.hooks import Hook
from mmengine.model import BaseModule
from mmengine.registry import HOOKS as ROOT_HOOKS
from mmengine.registry import MODELS as ROOT_MODELS
from mmengine.registry import Registry

MODELS = Registry('model', parent=ROOT_MODELS, scope='neighbour')
HOOKS = Registry('hook', parent=ROOT_HOOKS, scope='neighbour')

@MODELS.register_module()
class SparXMamba(BaseModule):
    pass

@HOOKS.register_module()
class CountHook(Hook):
    iterations = 0

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        CountHook.iterations += 1
"""

CONFIG = f"""
custom_imports = dict(imports=['mmsparx.models', 'neighbour'], allow_failed_imports=False)
custom_hooks = [dict(type='neighbour.CountHook'), dict(type='mmsparx.NaNGuardHook')]
backbone = dict(_delete_=True, type='mmsparx.SparXMamba', arch={SMALL_ARCH})
channels = {list(SMALL_ARCH['channels'])}
"""
CONFIGS = {
    'mmdet': """
_base_ = 'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py'
model = dict(backbone=dict(out_indices=(0, 1, 2, 3), **backbone), neck=dict(in_channels=channels))
""",
    'mmseg': """
_base_ = 'mmseg::sem_fpn/fpn_r50_4xb4-160k_ade20k-512x512.py'
model = dict(
    pretrained=None,
    data_preprocessor=dict(size=(64, 64)),
    backbone=dict(out_indices=(0, 1, 2, 3), **backbone),
    neck=dict(in_channels=channels),
)
""",
    'mmpretrain': """
_base_ = 'mmpretrain::resnet/resnet18_8xb32_in1k.py'
model = dict(backbone=dict(out_indices=(3,), **backbone), head=dict(in_channels=channels[-1], topk=1))
train_dataloader = dict(dataset=dict(metainfo=dict(classes=('cat', 'dog'))))
""",
}
# Small images, and one iteration without validation.
RUN = """
import sys
import torch
from mmengine.config import Config
from mmengine.runner import Runner

def train(config):
    cfg = Config.fromfile(config)
    for transform in cfg.train_dataloader.dataset.pipeline:
        for size in {'scale', 'crop_size'} & transform.keys():
            transform[size] = 64 if isinstance(transform[size], int) else (64, 64)
    cfg.train_dataloader.update(batch_size=2, num_workers=0, persistent_workers=False)
    cfg.train_cfg = dict(by_epoch=False, max_iters=1)
    cfg.param_scheduler = None
    for part in ('val', 'test'):
        cfg[f'{part}_cfg'] = cfg[f'{part}_dataloader'] = cfg[f'{part}_evaluator'] = None
    cfg.work_dir = 'work'
    cfg.experiment_name = config
    runner = Runner.from_cfg(cfg)
    before = [x.clone() for x in runner.model.backbone.parameters()]
    runner.train()
    assert runner.iter == 1
    assert not all(map(torch.equal, before, runner.model.backbone.parameters()))
    return runner

torch.set_num_threads(1)
library, *configs = sys.argv[1:]
backbones = [train(config).model.backbone for config in configs]

import mmsparx.models
import neighbour
from mmengine.registry import MODELS

assert all(type(backbone) is mmsparx.models.SparXMamba for backbone in backbones)
assert neighbour.CountHook.iterations == 1  # it is in the first config alone
with MODELS.switch_scope_and_registry(library) as registry:
    assert type(registry.build(dict(type='neighbour.SparXMamba'))) is neighbour.SparXMamba
assert not [name for name in sys.modules if name.partition('.')[0] in ('tools', 'tests')]
print('trained', len(configs))
"""


def write_data(library, folder):
    """A few images where the library's own configs look for them."""
    if library == 'mmdet':
        from helpers.tools import write_coco

        write_coco(folder / 'data/coco', 'train2017', 4, seed=0)
    elif library == 'mmseg':
        from helpers.segmentation import write_ade

        write_ade(folder / 'data/ade/ADEChallengeData2016', 'training', 2)
    else:
        for name in ('cat', 'dog'):
            path = folder / 'data/imagenet/train' / name
            path.mkdir(parents=True)
            cv2.imwrite(str(path / '0.png'), np.full((64, 64, 3), len(name), np.uint8))


@pytest.mark.parametrize('library', CONFIGS)
def test_a_config_of_a_few_lines_trains_beside_another_plugin(library, tmp_path):
    """For detection, an exported config trains as well."""
    if importlib.util.find_spec(library) is None:
        pytest.skip(f'{library} is not installed')
    write_data(library, tmp_path)
    (tmp_path / 'neighbour.py').write_text(NEIGHBOUR)
    (tmp_path / 'mine.py').write_text(CONFIG + CONFIGS[library])
    (tmp_path / 'run.py').write_text(RUN)
    configs = ['mine.py']
    if library == 'mmdet':
        from mmsparx.zoo import export_config

        configs.append(export_config('mask_rcnn_sparx_mini_overfit', tmp_path).name)
    # The path only has installed packages and the folder itself.
    environment = {key: value for key, value in os.environ.items() if key != 'PYTHONPATH'}
    command = [sys.executable, 'run.py', library, *configs]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f'trained {len(configs)}'
    assert 'Failed to search registry' not in done.stdout + done.stderr


IMPORT = 'from mmsparx.models import SparXMamba\n'
BASE = "_base_ = 'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py'\n"
MODEL = "model = dict(backbone=dict(_delete_=True, type=SparXMamba, arch='tiny'))\n"


class TestFormsThatFail:
    """docs/outside_the_repository.md lists these forms; if one of them works, the page can say so."""

    @pytest.fixture
    def read(self, tmp_path):
        pytest.importorskip('mmdet', reason='the configs stand on mmdet')

        def run(text):
            (tmp_path / 'mine.py').write_text(text)
            return Config.fromfile(tmp_path / 'mine.py')

        return run

    def test_a_base_of_ours(self, read):
        with pytest.raises(AssertionError, match=r'mmengine does not support to load mmsparx config\.'):
            read("_base_ = 'mmsparx::detection/mask_rcnn_sparx_t_1x.py'\n")

    def test_an_import_above_the_base(self, read):
        with pytest.raises(ConfigParsingError, match='The configuration file type in the inheritance chain must match'):
            read(IMPORT + BASE + MODEL)

    def test_an_import_below_the_base(self, read, tmp_path, monkeypatch):
        monkeypatch.setattr('mmengine.config.config.FormatCode', FormatCode)  # other tests turn it off
        cfg = read(BASE + IMPORT + MODEL)
        with pytest.raises(SyntaxError, match='Failed to format the config file'):
            cfg.dump(tmp_path / 'dumped.py')  # the Runner does so when it starts
