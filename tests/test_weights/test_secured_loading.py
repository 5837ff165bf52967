"""mmengine's own loading, once mmsparx is imported: nothing in a checkpoint runs, nothing damaged loads."""

import functools
import http.server
import os
import pickle
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from helpers import SMALL_ARCH
from mmengine.config import Config
from mmengine.logging import HistoryBuffer
from mmengine.runner import CheckpointLoader

from mmsparx.weights.reading import check_archive, secure_mmengine

secure_mmengine()
ROOT = Path(__file__).parents[2]


class Hostile:
    """Unpickled without care, it leaves a mark."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return open, (str(self.mark), 'w')


@pytest.fixture
def mark(tmp_path) -> Path:
    return tmp_path / 'mark'


@pytest.fixture
def server(tmp_path, monkeypatch):
    """The address at which a folder of files is to be had."""
    monkeypatch.delenv('TORCH_FORCE_WEIGHTS_ONLY_LOAD', raising=False)  # the tools set it for good
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'torch'))
    (tmp_path / 'served').mkdir()
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path / 'served')
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield tmp_path / 'served', f'http://127.0.0.1:{server.server_port}'
        server.shutdown()


@pytest.mark.parametrize(
    ('registry', 'name', 'needed'),
    [
        ('MODELS', 'SparXMamba', 'mmengine'),
        ('HOOKS', 'NaNGuardHook', 'mmengine'),
        ('TRANSFORMS', 'LoadImageFromFile', 'mmcv'),
    ],
)
def test_a_name_that_mmengine_resolves_secures_loading(registry, name, needed, tmp_path):
    pytest.importorskip(needed, reason=f'mmsparx.{name} needs it')
    code = f"""
import sys
from mmengine.registry import {registry}
from mmengine.runner import CheckpointLoader
assert not any(module.split('.')[0] == 'mmsparx' for module in sys.modules)
assert 'model = 1' in CheckpointLoader.load_checkpoint(sys.argv[1])['meta']['cfg']
assert {registry}.get('mmsparx.{name}') is not None
assert 'model = 1' not in CheckpointLoader.load_checkpoint(sys.argv[1])['meta']['cfg']
assert all(hasattr(load, 'is_secured') for load in CheckpointLoader._schemes.values())
"""
    torch.save({'state_dict': {}, 'meta': {'cfg': 'model = 1'}}, tmp_path / 'x.pth')
    done = subprocess.run([sys.executable, '-c', code, tmp_path / 'x.pth'], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


class TestCode:
    def test_from_an_address(self, server, mark):
        """torch.hub, by which mmengine loads from addresses, unpickles by default on every torch."""
        folder, address = server
        torch.save({'state_dict': {}, 'extra': Hostile(mark)}, folder / 'hostile.pth')
        torch.save({'state_dict': {'w': torch.ones(2)}, 'loss': HistoryBuffer([1.0], [1])}, folder / 'good.pth')
        with pytest.raises(pickle.UnpicklingError, match=r'[Ww]eights'):
            CheckpointLoader.load_checkpoint(f'{address}/hostile.pth')
        assert not mark.exists()
        assert CheckpointLoader.load_checkpoint(f'{address}/good.pth')['state_dict']['w'].sum() == 2
        torch.hub.load_state_dict_from_url(f'{address}/hostile.pth')
        assert mark.exists()  # the file does what it should

    @pytest.mark.parametrize(
        ('key', 'place'),
        [
            ('cfg', lambda text: {'message_hub': {'runtime_info': {'cfg': text, 'iter': 3}}}),
            ('cfg', lambda text: {'meta': {'cfg': text, 'epoch': 3}}),
            ('config', lambda text: {'meta': {'config': text, 'epoch': 3}}),
        ],
        ids=['message hub', 'meta', 'meta of a resume'],
    )
    def test_stored_configs_are_not_there_to_run(self, key, place, tmp_path, mark):
        text = f"open({str(mark)!r}, 'w')\nmodel = dict(type='Nope')\n"
        Config.fromstring(text, '.py')
        assert mark.exists()  # what mmengine does with such a text
        mark.unlink()
        torch.save(place(text), tmp_path / 'x.pth')
        loaded = CheckpointLoader.load_checkpoint(str(tmp_path / 'x.pth'))
        holder = loaded['meta'] if 'meta' in loaded else loaded['message_hub']['runtime_info']
        assert 3 in holder.values()  # the rest is left
        if key in holder:
            with pytest.raises(ValueError, match='Name the config: DetInferencer'):
                Config.fromstring(holder[key], '.py')
        assert not mark.exists()

    @pytest.mark.parametrize(
        ('library', 'inferencer'),
        [
            ('mmdet', 'DetInferencer(model=config, weights=weights, device="cpu")'),
            ('mmseg', 'MMSegInferencer(model=config, weights=weights, device="cpu")'),
            ('mmpretrain', 'ImageClassificationInferencer(model=config, pretrained=weights, device="cpu")'),
        ],
    )
    def test_inferencers_in_a_process_that_imported_nothing_else(self, library, inferencer, tmp_path, mark):
        pytest.importorskip(library, reason=f'its inferencer is what is tested; {library} is not installed')
        torch.save({'state_dict': {}, 'extra': Hostile(mark)}, tmp_path / 'hostile.pth')
        config = tmp_path / 'config.py'
        config.write_text(
            "custom_imports = dict(imports=['mmsparx.models'])\n"
            f"backbone = dict(type='mmsparx.SparXMamba', arch={SMALL_ARCH})\n"
            # mmpretrain builds its model first; the others do not come so far.
            "model = dict(type='mmpretrain.ImageClassifier', backbone=backbone)\n"
        )
        name = inferencer.partition('(')[0]
        code = f'import sys; from {library}.apis import {name}; config, weights = sys.argv[1:]; {inferencer}'
        done = subprocess.run(
            [sys.executable, '-c', code, config, tmp_path / 'hostile.pth'], capture_output=True, text=True, cwd=ROOT
        )
        assert done.returncode == 1
        assert 'Weights only load failed' in done.stderr
        assert not mark.exists()


class TestDamage:
    @pytest.fixture
    def path(self, tmp_path):
        torch.save({'state_dict': {'weight': torch.randn(1000)}}, tmp_path / 'x.pth')
        return tmp_path / 'x.pth'

    def test_a_whole_file_passes(self, path):
        check_archive(path)
        assert CheckpointLoader.load_checkpoint(str(path))['state_dict']['weight'].shape == (1000,)

    def test_a_flipped_bit_of_a_weight(self, path):
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
        assert torch.load(path, weights_only=True)  # torch does not notice
        with pytest.raises(RuntimeError, match=r"x\.pth is damaged: the record 'x/data/0' is not what was written"):
            CheckpointLoader.load_checkpoint(str(path))

    def test_no_flipped_bit_changes_what_is_loaded(self, path):
        """Anywhere in the file: it is refused by us or by torch, or what is loaded is the same."""
        torch.save({'w': torch.arange(4.0)}, path)
        whole = path.read_bytes()
        generator = torch.Generator().manual_seed(0)
        refused = 0
        for position in torch.randint(len(whole), (400,), generator=generator).tolist():
            data = bytearray(whole)
            data[position] ^= 1 << torch.randint(8, (), generator=generator).item()
            path.write_bytes(data)
            try:
                found = CheckpointLoader.load_checkpoint(str(path))
            except (RuntimeError, pickle.UnpicklingError, UnicodeDecodeError):
                refused += 1
            else:
                assert torch.equal(found['w'], torch.arange(4.0)), position
        assert 100 < refused < 400

    @pytest.mark.parametrize('kept', [0.999, 0.5, 0.01])
    def test_cut_off(self, path, kept):
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])
        with pytest.raises(RuntimeError, match=r'x\.pth is damaged: cut off after \d+ bytes'):
            CheckpointLoader.load_checkpoint(str(path))

    def test_empty(self, path):
        path.write_bytes(b'')
        with pytest.raises(RuntimeError, match='it is empty'):
            CheckpointLoader.load_checkpoint(str(path))

    def test_other_formats_are_left_to_torch(self, path):
        torch.save({'w': torch.ones(1)}, path, _use_new_zipfile_serialization=False)
        assert CheckpointLoader.load_checkpoint(str(path))['w'] == 1

    def test_a_home_folder(self, path, monkeypatch):
        monkeypatch.setenv('HOME', str(path.parent))
        path.write_bytes(path.read_bytes()[:900])
        with pytest.raises(RuntimeError, match='cut off after 900 bytes'):
            CheckpointLoader.load_checkpoint(os.path.join('~', path.name))


def test_secured_once():
    before = dict(CheckpointLoader._schemes)
    secure_mmengine()
    assert CheckpointLoader._schemes == before
