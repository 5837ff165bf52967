"""Folders that timm reads and writes."""

import json
import re
import shutil

import pytest
import torch
from helpers import SMALL_ARCH, randomise
from helpers.weights import LEARNABLE, assert_same_bits, build, build_classifier

pytest.importorskip('timm', reason='its folders are what is tested')
pytest.importorskip('safetensors', reason='the format of the weights')
import timm
from timm.models import save_for_hf

import mmsparx.timm  # noqa: F401  (registers the networks)
from mmsparx.models import SparXClassifier, SparXMamba, SparXSwin, VMamba
from mmsparx.models.architecture import Architecture

FAMILIES = {'sparx_mamba': SparXMamba, 'sparx_swin': SparXSwin, 'vmamba': VMamba}


def make_template():
    return randomise(build_classifier()).eval()


@pytest.fixture(params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture
def name(monkeypatch, family):
    """timm's name of a small network of each family."""
    monkeypatch.setitem(FAMILIES[family].ARCHITECTURES, 'tiny', Architecture.of(SMALL_ARCH, {}))
    return f'{family}_tiny'


def images(channels=3):
    return torch.randn(2, channels, 40, 36)


class TestTimmReadsOurs:
    def create(self, folder, **options):
        return timm.create_model(f'local-dir:{folder}', pretrained=True, **options).eval()

    @pytest.mark.parametrize('named', [True, False])
    def test_a_classifier(self, folder, name, family, named):
        backbone = FAMILIES[family]('tiny' if named else SMALL_ARCH, out_indices=(3,), output_norm=False)
        classifier = randomise(SparXClassifier(backbone, 5)).eval()
        classifier.save_pretrained(folder)
        model = self.create(folder)
        assert_same_bits(model.state_dict(), classifier.state_dict())
        x = images()
        assert torch.equal(model(x), classifier(x))
        # Images are prepared as for the named network.
        assert model.pretrained_cfg['crop_pct'] == timm.create_model(name, device='meta').pretrained_cfg['crop_pct']
        assert (model.pretrained_cfg['classifier'], model.num_classes) == ('head.fc', 5)

    def test_a_repository(self, template, tmp_path, monkeypatch):
        """The folder is that of huggingface_hub's cache after a download."""
        hub = pytest.importorskip('huggingface_hub', reason='it is what reads')
        monkeypatch.setattr(hub.constants, 'HF_HUB_OFFLINE', True)
        classifier, folder = template
        repository, commit = tmp_path / 'models--owner--sparx', '0' * 40
        shutil.copytree(folder, repository / 'snapshots' / commit)
        (repository / 'refs').mkdir()
        (repository / 'refs/main').write_text(commit)
        model = timm.create_model('hf-hub:owner/sparx', pretrained=True, cache_dir=tmp_path)
        assert_same_bits(model.state_dict(), classifier.state_dict())

    def test_options_of_the_network(self, folder):
        options = dict(in_channels=2, aggregator=LEARNABLE, token_mixer={'type': 'SS2D', 'expand': 1}, style='vmamba')
        backbone = SparXMamba(SMALL_ARCH, out_indices=(3,), output_norm=False, **options)
        classifier = randomise(SparXClassifier(backbone, 5)).eval()
        classifier.save_pretrained(folder)
        x = images(2)
        assert torch.equal(self.create(folder)(x), classifier(x))

    def test_other_classes(self, template):
        classifier, folder = template
        model = self.create(folder, num_classes=7)
        assert model.head.fc.weight.shape == (7, 32)
        assert torch.equal(model.head.norm.weight, classifier.head.norm.weight)

    def test_the_maps_of_a_backbone(self, folder):
        network = randomise(build()).eval()
        network.save_pretrained(folder)
        model = self.create(folder, features_only=True)
        x = images()
        raw = SparXMamba.from_pretrained(folder, output_norm=False)
        assert all(map(torch.equal, model(x), raw(x)))
        assert_same_bits(raw.state_dict(), {k: x for k, x in network.state_dict().items() if 'out_norms' not in k})
        assert self.create(folder).num_classes == 0
        assert self.create(folder, num_classes=3).head.fc.bias.eq(0).all()

    def test_a_backbone_that_lacks_weights(self, folder):
        """Its head may be new, and nothing else."""
        network = build()
        network.save_pretrained(folder)
        state = {k: x for k, x in network.state_dict().items() if k != 'stem.1.weight'}
        (folder / 'model.safetensors').unlink()
        torch.save(state, folder / 'pytorch_model.bin')
        with pytest.raises(RuntimeError, match=r'1 MISSING in the file: backbone\.stem\.1\.weight'):
            self.create(folder, num_classes=3)

    def test_networks_that_timm_does_not_have(self, folder):
        for arch, out_indices in ((SMALL_ARCH, (0, 1)), ({'channels': [8], 'stages': [{'depth': 1}]}, (0,))):
            SparXMamba(arch, out_indices=out_indices).save_pretrained(folder)
            assert 'architecture' not in json.loads((folder / 'config.json').read_text())

    @pytest.mark.parametrize(
        'changes',
        [
            {'token_mixer': {'type': 'subprocess.Popen', 'args': ['true']}},
            {'aggregator': {'type': 'torch.nn.Conv2d'}},
            {'init_cfg': {'type': 'Pretrained', 'checkpoint': 'x.pth'}},
            {'arch': {'stages': [{'type': 'os.system'}]}},
        ],
    )
    def test_a_config_that_names_classes(self, saved, monkeypatch, changes):
        """Names in model_args do not import anything."""
        asked = []
        monkeypatch.setattr('mmsparx.registry.get_object_from_string', lambda name: asked.append(name))
        _, folder = saved
        config = json.loads((folder / 'config.json').read_text())
        config['model_args'] |= changes
        (folder / 'config.json').write_text(json.dumps(config))
        with pytest.raises(ValueError, match=r'config\.json of .*folder: '):
            self.create(folder)
        assert not asked


class TestWeReadTimms:
    @pytest.mark.parametrize('safe', [True, False])
    def test_a_network(self, folder, name, family, safe):
        model = randomise(timm.create_model(name, num_classes=5)).eval()
        save_for_hf(model, folder, safe_serialization=safe)
        x = images()
        backbone = FAMILIES[family].from_pretrained(folder)
        assert_same_bits(backbone.state_dict(), model.backbone.state_dict())
        assert all(map(torch.equal, backbone(x), model.backbone(x)))
        assert torch.equal(SparXClassifier.from_pretrained(folder)(x), model(x))
        again = timm.create_model(f'local-dir:{folder}', pretrained=True).eval()
        assert torch.equal(again(x), model(x))

    def test_options(self, folder, monkeypatch):
        monkeypatch.setitem(SparXMamba.ARCHITECTURES, 'tiny', Architecture.of(SMALL_ARCH, {}))
        model = timm.create_model('sparx_mamba_tiny', num_classes=0, in_chans=1, aggregator=LEARNABLE, with_cp=True)
        save_for_hf(randomise(model).eval(), folder)
        x = images(1)
        assert torch.equal(SparXClassifier.from_pretrained(folder)(x), model(x))
        found = SparXMamba.from_pretrained(folder, drop_path_rate=0.2, output_norm=True)
        assert found.stages[0].with_cp
        assert len(found.out_norms) == 4

    def test_there_and_back_again(self, template, tmp_path):
        """The networks have sizes without a name."""
        classifier, folder = template
        save_for_hf(timm.create_model(f'local-dir:{folder}', pretrained=True), tmp_path / 'timm')
        assert_same_bits(SparXClassifier.from_pretrained(tmp_path / 'timm').state_dict(), classifier.state_dict())

    def test_another_pooling(self, folder, monkeypatch):
        monkeypatch.setitem(SparXMamba.ARCHITECTURES, 'tiny', Architecture.of(SMALL_ARCH, {}))
        model = randomise(timm.create_model('sparx_mamba_tiny', global_pool='')).eval()
        save_for_hf(model, folder)
        with pytest.raises(ValueError, match="expected a classifier with global_pool='avg', got ''"):
            SparXClassifier.from_pretrained(folder)
        assert_same_bits(SparXMamba.from_pretrained(folder).state_dict(), model.backbone.state_dict())

    @pytest.mark.parametrize(
        ('config', 'message'),
        [
            ({'architecture': 'resnet18'}, r"one of sparx_mamba_\*, sparx_swin_\*, vmamba_\*, got 'resnet18'"),
            ({'architecture': 'sparx_mamba_huge'}, "unknown arch 'huge'; known ones: tiny, small, base"),
            ({'architecture': 'vmamba_tiny'}, r'is of a VMamba: VMamba\.from_pretrained reads it, not SparXMamba'),
            ({'architecture': 'sparx_mamba_tiny', 'model_args': {'img_size': 224}}, "unknown argument 'img_size'"),
            ({'architecture': 'sparx_mamba_tiny', 'model_args': 3}, 'expected model_args and pretrained_cfg to be'),
            (
                {'architecture': 'sparx_mamba_tiny', 'model_args': {'token_mixer': {'type': 'os.system'}}},
                r'expected token_mixer\.type to be a registered name',
            ),
        ],
    )
    def test_mismatches(self, saved, config, message):
        _, folder = saved
        (folder / 'config.json').write_text(json.dumps(config))
        with pytest.raises(ValueError, match=message):
            SparXMamba.from_pretrained(folder)


def test_the_code_of_a_model_card_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    build_classifier().save_pretrained('path/to/folder')
    text = (tmp_path / 'path/to/folder/README.md').read_text()
    blocks = re.findall(r'```python\n(.*?)```', text, re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        exec(block, found := {})
        assert found['model'].head.fc.out_features == 5
