"""The program of docs/deployment.md: it classifies with an exported file, without mmsparx and torch."""

import re
import subprocess
import sys

import numpy as np
import pytest
import torch

pytest.importorskip('mmengine', reason='the networks need it')
pytest.importorskip('onnxscript', reason='the export needs it')
pytest.importorskip('onnxruntime', reason='the program needs it')
from helpers import randomise
from helpers.tools import ROOT
from PIL import Image

from mmsparx.export import export, ort_library
from mmsparx.models import SparXClassifier, SparXMamba
from mmsparx.ops import native

MEAN, STD = (120.0, 110.0, 100.0), (60.0, 50.0, 40.0)
CLASSES = [f'class {i}' for i in range(50)]


def run_program(folder, *arguments):
    page = (ROOT / 'docs/deployment.md').read_text()
    program = re.search(r'^## A program of your own\n.*?^```python\n(.*?)^```', page, re.MULTILINE | re.DOTALL)[1]
    hidden = 'import sys\nsys.modules.update(mmsparx=None, torch=None)\n'
    command = [sys.executable, '-c', hidden + program, *map(str, arguments)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize('order', ['RGB', 'BGR'])
def test_it_finds_the_class_of_the_network(order, tmp_path):
    arch = {'channels': (8,), 'stages': [{'depth': 1}]}
    backbone = SparXMamba(arch, out_indices=(0,), output_norm=False)
    network = randomise(SparXClassifier(backbone, num_classes=len(CLASSES))).eval()
    description = {'mean': MEAN, 'std': STD, 'channels': order, 'classes': CLASSES}
    export(network, tmp_path / 'network.onnx', description=description)
    pixels = np.random.default_rng(0).integers(0, 256, (224, 224, 3), dtype=np.uint8)
    pixels[..., 0] //= 3  # red differs from blue
    Image.fromarray(pixels).save(tmp_path / 'photo.png')

    values = torch.from_numpy(pixels).float()
    values = values.flip(-1) if order == 'BGR' else values
    image = ((values - torch.tensor(MEAN)) / torch.tensor(STD)).permute(2, 0, 1)[None]
    with torch.no_grad():
        expected = CLASSES[network(image).argmax()]
    libraries = [[]] if native.without_ort() else [[], [ort_library()]]
    for library in libraries:
        done = run_program(tmp_path, 'network.onnx', 'photo.png', *library)
        assert done.stdout == f'{expected}\n', done.stderr
