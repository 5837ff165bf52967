"""A tiny set in ImageNet's layout, and helpers to train a small classifier on it. They need mmpretrain."""

from pathlib import Path

import cv2
import numpy as np
from mmengine.logging import MessageHub, MMLogger
from mmpretrain.visualization import UniversalVisualizer

from helpers import SMALL_ARCH
from helpers.configs import CONFIGS
from helpers.tools import run_command

CLASSIFICATION = CONFIGS / 'classification'
COLOURS = {'blue': (250, 60, 40), 'green': (40, 250, 60), 'red': (60, 40, 250)}


def write_folders(folder: Path, per_class: int = 3) -> None:
    """`per_class` images of each colour for training, and one for validation."""
    rng = np.random.default_rng(0)
    for split, count in (('train', per_class), ('val', 1)):
        for name, colour in COLOURS.items():
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                image = rng.integers(0, 80, (48, 64, 3)) + np.array(colour) // 2
                cv2.imwrite(str(folder / split / name / f'{i}.png'), image.astype(np.uint8))


def write_config(folder: Path, data: Path, epochs: int = 2) -> Path:
    """The whole recipe of sparx_mamba_t_in1k.py for a small network and `write_folders`' images, without AMP."""
    classes = len(COLOURS)
    config = folder / 'recipe.py'
    config.write_text(f"""
_base_ = {str(CLASSIFICATION / 'sparx_mamba_t_in1k.py')!r}
model = dict(
    backbone=dict(arch={SMALL_ARCH | {'_delete_': True}}),
    head=dict(in_channels={SMALL_ARCH['channels'][-1]}, num_classes={classes}),
)
data_preprocessor = dict(num_classes={classes})
dataset = dict(data_root={str(data)!r}, metainfo=dict(classes={list(COLOURS)}))
train_dataloader = dict(batch_size=4, num_workers=0, persistent_workers=False, dataset=dataset)
val_dataloader = dict(batch_size=2, num_workers=0, persistent_workers=False, dataset=dataset)
test_dataloader = val_dataloader
val_evaluator = dict(topk=(1, 2))
test_evaluator = val_evaluator
optim_wrapper = dict(type='OptimWrapper')
train_cfg = dict(max_epochs={epochs})
default_hooks = dict(logger=dict(interval=1))
randomness = dict(seed=0)
log_level = 'ERROR'
""")
    return config


def run_tool(name: str, *arguments) -> None:
    """Run a command in this process."""
    forget_runs()
    run_command(name, *arguments)


def forget_runs() -> None:
    """Clear the objects that mmengine keeps by name in a process; a run would write to the one before."""
    for kept in (UniversalVisualizer, MessageHub, MMLogger):
        kept._instance_dict.clear()
