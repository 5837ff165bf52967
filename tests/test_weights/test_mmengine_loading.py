"""mmengine's own loading, once mmsparx is imported: nothing in a checkpoint runs, nothing damaged loads."""

import functools
import http.client
import http.server
import os
import pickle
import re
import shutil
import subprocess
import sys
import threading
import traceback
from pathlib import Path

import pytest
import torch
from helpers import SMALL_ARCH, randomise
from mmengine.config import Config
from mmengine.logging import HistoryBuffer
from mmengine.runner import CheckpointLoader, checkpoint, load_checkpoint

from mmsparx.models import SparXMamba
from mmsparx.weights import UnreadableError, mmengine_loading, secure_mmengine
from mmsparx.weights.contents import Weights, encode_weights
from mmsparx.weights.files import MissingError
from mmsparx.weights.mmengine_loading import weights_only

secure_mmengine()
ROOT = Path(__file__).parents[2]


class Hostile:
    """An unsafe unpickler creates a file for it."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return open, (str(self.mark), 'w')


@pytest.fixture
def mark(tmp_path) -> Path:
    return tmp_path / 'mark'


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A folder, and the address that serves its files."""
    monkeypatch.delenv('TORCH_FORCE_WEIGHTS_ONLY_LOAD', raising=False)  # the tools set it permanently
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
from mmengine.runner import CheckpointLoader, checkpoint, load_checkpoint
assert not any(module.split('.')[0] == 'mmsparx' for module in sys.modules)
assert 'model = 1' in CheckpointLoader.load_checkpoint(sys.argv[1])['meta']['cfg']
assert {registry}.get('mmsparx.{name}') is not None
assert 'model = 1' not in CheckpointLoader.load_checkpoint(sys.argv[1])['meta']['cfg']
assert hasattr(CheckpointLoader._get_checkpoint_loader, 'is_secured')
"""
    torch.save({'state_dict': {}, 'meta': {'cfg': 'model = 1'}}, tmp_path / 'x.pth')
    done = subprocess.run([sys.executable, '-c', code, tmp_path / 'x.pth'], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


class TestCode:
    def test_from_an_address(self, server, mark):
        """mmengine loads from addresses by torch.hub, which unpickles by default with every torch."""
        folder, address = server
        torch.save({'state_dict': {}, 'extra': Hostile(mark)}, folder / 'hostile.pth')
        torch.save({'state_dict': {'w': torch.ones(2)}, 'loss': HistoryBuffer([1.0], [1])}, folder / 'good.pth')
        with pytest.raises(UnreadableError, match=r'it asks to call io\.open'):
            CheckpointLoader.load_checkpoint(f'{address}/hostile.pth')
        assert not mark.exists()
        assert CheckpointLoader.load_checkpoint(f'{address}/good.pth')['state_dict']['w'].sum() == 2
        torch.hub.load_state_dict_from_url(f'{address}/hostile.pth', weights_only=False)
        assert mark.exists()  # the file is hostile

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
        assert mark.exists()  # mmengine runs such a text
        mark.unlink()
        torch.save(place(text), tmp_path / 'x.pth')
        loaded = CheckpointLoader.load_checkpoint(str(tmp_path / 'x.pth'))
        holder = loaded['meta'] if 'meta' in loaded else loaded['message_hub']['runtime_info']
        assert 3 in holder.values()  # the rest is unchanged
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
            # mmpretrain builds its model first; the others fail earlier.
            "model = dict(type='mmpretrain.ImageClassifier', backbone=backbone)\n"
        )
        name = inferencer.partition('(')[0]
        code = f'import sys; from {library}.apis import {name}; config, weights = sys.argv[1:]; {inferencer}'
        done = subprocess.run(
            [sys.executable, '-c', code, config, tmp_path / 'hostile.pth'], capture_output=True, text=True, cwd=ROOT
        )
        assert done.returncode == 1
        assert 'it asks to call io.open' in done.stderr
        assert not mark.exists()


@pytest.fixture
def weights(tmp_path):
    torch.save({'state_dict': {'w': torch.ones(2)}, 'loss': HistoryBuffer([1.0], [1])}, tmp_path / 'x.pth')
    return tmp_path / 'x.pth'


class TestAddresses:
    def test_a_home_folder(self, weights, monkeypatch):
        monkeypatch.setenv('HOME', str(weights.parent))
        assert CheckpointLoader.load_checkpoint('~/x.pth')['state_dict']['w'].sum() == 2

    def test_a_download_is_kept(self, server, weights, tmp_path):
        folder, address = server
        weights.rename(folder / 'x.pth')
        assert CheckpointLoader.load_checkpoint(f'{address}/x.pth?raw=1')['loss'].mean() == 1
        (folder / 'x.pth').unlink()
        assert CheckpointLoader.load_checkpoint(f'{address}/x.pth')['loss'].mean() == 1
        assert (tmp_path / 'torch/hub/checkpoints/x.pth').is_file()

    def test_a_web_page_in_place_of_a_download(self, server, tmp_path):
        folder, address = server
        (folder / 'x.pth').write_text('<!DOCTYPE html>')
        with pytest.raises(
            UnreadableError, match=r'web page.*x\.pth is the copy of http.*remove it to download it again'
        ):
            CheckpointLoader.load_checkpoint(f'{address}/x.pth')

    def test_an_unavailable_file(self, server):
        _, address = server
        with pytest.raises(UnreadableError, match=r'the weights http.*/nonesuch\.pth are not available: .*404'):
            CheckpointLoader.load_checkpoint(f'{address}/nonesuch.pth')

    def test_safetensors(self, server, tmp_path):
        folder, address = server
        (folder / 'x.safetensors').write_bytes(encode_weights(Weights({'w': torch.ones(2)}), '.safetensors'))
        assert CheckpointLoader.load_checkpoint(f'{address}/x.safetensors')['w'].sum() == 2

    @pytest.mark.parametrize('prefix', ['open-mmlab://', 'openmmlab://'])
    def test_mmengines_table_of_models(self, prefix, server, weights, monkeypatch, tmp_path):
        folder, address = server
        (folder / 'far.pth').write_bytes(weights.read_bytes())
        places = {'far': f'{address}/far.pth', 'near': 'x.pth'}
        monkeypatch.setattr(checkpoint, 'get_external_models', lambda: places)
        monkeypatch.setattr(checkpoint, 'get_deprecated_model_names', lambda: {'old': 'near'})
        monkeypatch.setenv('MMENGINE_HOME', str(tmp_path))
        for name in ('far', 'near', 'old'):
            assert CheckpointLoader.load_checkpoint(prefix + name)['state_dict']['w'].sum() == 2

    def test_torchvisions_models(self, server, weights, monkeypatch):
        folder, address = server
        weights.rename(folder / 'x.pth')
        monkeypatch.setattr(checkpoint, 'get_torchvision_models', lambda: {'x': f'{address}/x.pth'})
        assert CheckpointLoader.load_checkpoint('torchvision://x')['state_dict']['w'].sum() == 2

    def test_a_store(self, weights, monkeypatch):
        class Backend:
            def get(self, name):
                assert name == 's3://bucket/x.pth'
                return weights.read_bytes()

        monkeypatch.setattr(mmengine_loading, 'get_file_backend', lambda *_, **__: Backend())
        assert CheckpointLoader.load_checkpoint('s3://bucket/x.pth')['state_dict']['w'].sum() == 2


class TestUnavailable:
    @pytest.fixture(autouse=True)
    def _no_copies(self, tmp_path, monkeypatch):
        monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'torch'))

    @pytest.mark.parametrize(
        ('address', 'said'),
        [
            ('http://127.0.0.1:9/', 'does not end in the name of a file'),
            ('open-mmlab://no/such', 'mmengine knows no model of that name'),
            ('http://127.0.0.1:9/x.pth', 'Connection refused'),
            ('torchvision://no_such', "load_from_torchvision knows no 'no_such'"),
            ('mmcls://no_such', "load_from_mmcls knows no 'no_such'"),
            ('pavi://x', 'install pavi'),
            ('s3://bucket/x.pth', 'install petrel_client'),
            ('hf-hub://x', r'no loader is registered for hf-hub://, but for http://, https://, mmcls://, '),
            ('HTTPS://127.0.0.1/x.pth', 'no loader is registered for HTTPS://'),
        ],
    )
    def test_an_address(self, address, said):
        with pytest.raises(MissingError) as error:
            CheckpointLoader.load_checkpoint(address)
        assert re.search(rf'the weights {address} are not available: .*{said}', str(error.value))
        assert 'Download the file where the address can be reached, and give its path' in str(error.value)

    @pytest.mark.parametrize('kind', ['openmmlab', 'torchvision', 'mmcls'])
    def test_an_address_that_stands_for_another(self, kind, monkeypatch):
        """The message names both, without a traceback of urllib."""
        for table in ('get_external_models', 'get_torchvision_models', 'get_mmcls_models'):
            monkeypatch.setattr(checkpoint, table, lambda: {'x': 'http://127.0.0.1:9/x.pth'})
        with pytest.raises(MissingError) as error:
            CheckpointLoader.load_checkpoint(f'{kind}://x')
        said = f'{kind}://x: the weights http://127.0.0.1:9/x.pth are not available: [Errno 111] Connection refused. '
        assert str(error.value).startswith(said)
        assert 'urllib' not in ''.join(traceback.format_exception(error.value))

    def test_a_copy_where_the_message_says(self, weights, tmp_path):
        with pytest.raises(MissingError) as error:
            CheckpointLoader.load_checkpoint('http://127.0.0.1:9/y.pth')
        place = str(error.value).rpartition(' ')[2]
        assert place == str(tmp_path / 'torch/hub/checkpoints/y.pth')
        shutil.copy(weights, place)
        assert CheckpointLoader.load_checkpoint('http://127.0.0.1:9/y.pth')['state_dict']['w'].sum() == 2

    def test_init_cfg_of_a_backbone(self):
        init_cfg = dict(type='Pretrained', checkpoint='torchvision://no_such')
        with pytest.raises(MissingError, match=r'no_such are not available: .* give its path .*--no-pretrained'):
            SparXMamba(SMALL_ARCH, init_cfg=init_cfg).init_weights()

    def test_a_file_may_have_such_a_name(self, weights, monkeypatch):
        monkeypatch.chdir(weights.parent)
        Path('odd:').mkdir()
        weights.rename('odd:/x.pth')
        assert CheckpointLoader.load_checkpoint('odd://x.pth')['state_dict']['w'].sum() == 2

    def test_a_server_that_breaks_off(self, server, monkeypatch):
        def broken(*_, **__):
            raise http.client.IncompleteRead(b'')

        monkeypatch.setattr(torch.hub, 'download_url_to_file', broken)
        with pytest.raises(MissingError, match=r'x\.pth are not available: IncompleteRead'):
            CheckpointLoader.load_checkpoint(f'{server[1]}/x.pth')


class TestLoadersOfOthers:
    """Loaders that others register with mmengine for their own addresses."""

    @pytest.fixture(params=['before', 'after'])
    def register(self, monkeypatch, request):
        monkeypatch.setattr(CheckpointLoader, '_schemes', dict(CheckpointLoader._schemes))

        def register(load):
            CheckpointLoader.register_scheme('ours://', load, force=True)
            if request.param == 'before':  # mmsparx is imported first
                secure_mmengine()

        return register

    def test_weights_pass(self, register, weights):
        def load_from_ours(filename, map_location=None):
            return torch.load(weights, weights_only=False)

        register(load_from_ours)
        torch.save({'state_dict': {'w': torch.ones(2)}, 'meta': {'cfg': 'model = 1'}}, weights)
        found = CheckpointLoader.load_checkpoint('ours://x')
        assert found['state_dict']['w'].sum() == 2
        assert 'Name the config' in found['meta']['cfg']

    def test_code_does_not_run(self, register, weights, mark):
        torch.save({'state_dict': {}, 'x': Hostile(mark)}, weights)
        register(lambda filename, map_location=None: torch.load(weights, weights_only=False))
        with pytest.raises(pickle.UnpicklingError):
            CheckpointLoader.load_checkpoint('ours://x')
        assert not mark.exists()

    def test_an_object_is_refused(self, register):
        register(lambda filename, map_location=None: {'meta': Path('x')})
        with pytest.raises(UnreadableError, match=r'ours://x was not loaded: it holds an object of pathlib\.'):
            CheckpointLoader.load_checkpoint('ours://x')


class TestInference:
    """If the libraries load a model for inference, everything must match, as in tools/test.py."""

    USES = {
        'mmdet': ('DetInferencer(config, weights, device="cpu")', 'init_detector(config, weights, device="cpu")'),
        'mmseg': ('MMSegInferencer(config, weights, device="cpu")', 'init_model(config, weights, device="cpu")'),
        'mmpretrain': (
            'ImageClassificationInferencer(config, weights, device="cpu")',
            'get_model(config, weights, device="cpu")',
        ),
    }
    MODELS = {
        'mmdet': """
head = dict(
    type='mmdet.RetinaHead', num_classes=2, in_channels=32, feat_channels=8, stacked_convs=1,
    anchor_generator=dict(type='AnchorGenerator', scales=[1], ratios=[1.0], strides=[32]),
    bbox_coder=dict(type='DeltaXYWHBBoxCoder'))
model = dict(type='mmdet.SingleStageDetector', backbone=backbone, bbox_head=head, test_cfg=dict())
pack, dataset_type = dict(type='mmdet.PackDetInputs'), 'mmdet.BaseDetDataset'
visualizer = dict(type='mmdet.DetLocalVisualizer')
""",
        'mmseg': """
head = dict(
    type='mmseg.FCNHead', in_channels=32, in_index=0, channels=8, num_classes=2, num_convs=1, concat_input=False,
    norm_cfg=dict(type='BN'))
model = dict(type='mmseg.EncoderDecoder', backbone=backbone, decode_head=head, test_cfg=dict(mode='whole'))
pack, dataset_type = dict(type='mmseg.PackSegInputs'), 'mmseg.BaseSegDataset'
visualizer = dict(type='mmseg.SegLocalVisualizer')
""",
        'mmpretrain': """
head = dict(type='mmsparx.SparXClsHead', in_channels=32, num_classes=2)
model = dict(type='mmpretrain.ImageClassifier', backbone=backbone, head=head)
pack, dataset_type = dict(type='mmpretrain.PackInputs'), 'mmpretrain.CustomDataset'
""",
    }

    def config(self, library, folder):
        pytest.importorskip(library, reason=f'its inferencer is what is tested; {library} is not installed')
        path = folder / 'config.py'
        path.write_text(
            "custom_imports = dict(imports=['mmsparx.models'])\n"
            f"default_scope = '{library}'\n"
            f"backbone = dict(type='mmsparx.SparXMamba', arch={SMALL_ARCH}, out_indices=(3,), output_norm=False)\n"
            + self.MODELS[library]
            + "pipeline = [dict(type='LoadImageFromFile'), pack]\n"
            "dataset = dict(type=dataset_type, metainfo=dict(classes=('a', 'b')), pipeline=pipeline)\n"
            'test_pipeline = pipeline\n'
            'test_dataloader = dict(dataset=dataset)\n'
        )
        return path

    def test_a_classifier_is_made_for_other_classes(self, tmp_path):
        config = self.config('mmpretrain', tmp_path)
        from mmpretrain.apis import ImageClassificationInferencer, get_model

        trained = randomise(get_model(str(config), device='cpu'))
        weights = str(tmp_path / 'x.pth')
        torch.save({'state_dict': trained.state_dict()}, weights)
        model = get_model(str(config), weights, device='cpu', head=dict(num_classes=7))
        for name, x in model.state_dict().items():
            if name.startswith('head.fc.'):
                assert x.shape[0] == 7
            else:
                assert torch.equal(x, trained.state_dict()[name]), name
        with pytest.raises(RuntimeError, match=r'Its head is of other classes: 2 in the file, 7 in the model'):
            ImageClassificationInferencer(str(config), weights, device='cpu', head=dict(num_classes=7))
        del trained.neck, trained.head.norm
        torch.save({'state_dict': trained.state_dict()}, weights)
        with pytest.raises(RuntimeError, match=r'MISSING in the file: head\.norm'):
            get_model(str(config), weights, device='cpu', head=dict(num_classes=7))

    @pytest.mark.parametrize('library', USES)
    def test_everything_must_match(self, library, tmp_path):
        config = self.config(library, tmp_path)
        uses = self.USES[library]
        names = ', '.join(use.partition('(')[0] for use in uses)
        code = f"""
import sys, torch, warnings
warnings.simplefilter('ignore')
from {library}.apis import {names}
from mmengine.config import Config
from mmengine.registry import MODELS
config, folder = sys.argv[1:]
cfg = Config.fromfile(config)
model = MODELS.build(cfg.model)
whole = model.state_dict()
backbone = {{name: x for name, x in whole.items() if name.startswith('backbone.')}}
other = {{'layer1.0.conv1.weight': torch.ones(2)}}
meta = {{'dataset_meta': {{'classes': ('a', 'b')}}}}
files = dict(empty={{}}, other=other, head_missing=backbone, more=whole | other, whole=whole)
for name, content in files.items():
    weights = f'{{folder}}/{{name}}.pth'
    torch.save({{'state_dict': content, 'meta': meta}}, weights)
    for use in {uses!r}:
        try:
            eval(use)
        except RuntimeError as error:
            print(name, use.partition('(')[0], str(error).replace(chr(10), ' '))
        else:
            print(name, use.partition('(')[0], 'loaded')
"""
        done = subprocess.run(
            [sys.executable, '-c', code, config, tmp_path], capture_output=True, text=True, cwd=tmp_path
        )
        assert done.returncode == 0, done.stderr[-3000:]
        said = [
            line for line in done.stdout.splitlines() if line.startswith(('empty', 'other', 'head', 'more', 'whole'))
        ]
        assert len(said) == 10, done.stdout
        expected = {
            'empty': 'It holds no weights at all. Nothing was loaded.',
            'other': "None of its names is a SparX backbone's",
            'head_missing': 'MISSING in the file: ',
            'more': '1 UNEXPECTED in the file: layer1.0.conv1.weight',
            'whole': 'loaded',
        }
        for line in said:
            assert expected[line.partition(' ')[0]] in line

    def test_elsewhere_mmengine_warns_as_it_does(self, weights, capsys):
        model = torch.nn.ModuleDict({'backbone': SparXMamba(SMALL_ARCH)})
        load_checkpoint(model, str(weights))  # nothing matches
        assert 'unexpected key in source state_dict: w' in capsys.readouterr().out


def test_secured_once():
    def state():
        choose = CheckpointLoader._get_checkpoint_loader.__func__
        return dict(CheckpointLoader._schemes), choose, checkpoint.load_state_dict

    before = state()
    secure_mmengine()
    assert state() == before


class TestWeightsOnly:
    """The environment variable that makes `torch.load` in other code load only weights."""

    SWITCH = 'TORCH_FORCE_WEIGHTS_ONLY_LOAD'

    @pytest.fixture(autouse=True)
    def _clean(self, monkeypatch):
        monkeypatch.delenv(self.SWITCH, raising=False)
        monkeypatch.delenv('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', raising=False)

    @pytest.mark.parametrize('before', [None, '0'])
    def test_leaves_the_environment_as_it_was(self, before, monkeypatch):
        if before is not None:
            monkeypatch.setenv(self.SWITCH, before)
        with weights_only():
            assert os.environ[self.SWITCH] == '1'
        assert os.environ.get(self.SWITCH) == before
        with pytest.raises(KeyError), weights_only():
            raise KeyError
        assert os.environ.get(self.SWITCH) == before

    def test_refuses_where_safe_loading_is_switched_off(self, monkeypatch):
        monkeypatch.setenv('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', '1')
        with pytest.raises(RuntimeError, match='LOAD switches safe loading off'), weights_only():
            raise AssertionError('not reached')

    def test_our_own_reader_ignores_it(self, weights, monkeypatch, mark):
        monkeypatch.setenv('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', '1')
        assert CheckpointLoader.load_checkpoint(str(weights))['state_dict']['w'].sum() == 2
        torch.save({'x': Hostile(mark)}, weights)
        with pytest.raises(UnreadableError, match='it asks to call'):
            CheckpointLoader.load_checkpoint(str(weights))
        assert not mark.exists()
