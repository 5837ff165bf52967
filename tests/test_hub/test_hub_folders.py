"""Networks as folders: saved networks are restored bit for bit, and nothing else is loaded."""

import json
import os
from pathlib import Path

import pytest
import torch
from helpers import SMALL_ARCH, randomise
from helpers.networks import NETWORKS, TWO_STAGES
from helpers.weights import assert_same_bits, build, build_classifier, published_classifier
from torch import nn

from mmsparx.models import SparXClassifier, SparXMamba, SparXNet, SparXSwin, VMamba
from mmsparx.models.architecture import Architecture
from mmsparx.models.style import Style
from mmsparx.registry import MODELS, TOKEN_MIXERS

pytest.importorskip('safetensors', reason='the format of the weights')


def make_template():
    return randomise(build()).eval()


def read(folder):
    return json.loads((folder / 'config.json').read_text())


def change(folder, **changes):
    """Write other entries into config.json."""
    (folder / 'config.json').write_text(json.dumps({**read(folder), **changes}))


def assert_same(actual, expected, channels=3):
    """Two networks have the same weights and outputs, bit for bit."""
    assert_same_bits(actual.state_dict(), expected.state_dict())
    x = torch.randn(1, channels, 40, 36).to(next(expected.parameters()).dtype)
    outputs, wanted = actual(x), expected(x)
    assert all(map(torch.equal, outputs, wanted))
    assert len(outputs) == len(wanted)


class TestRoundTrips:
    @pytest.mark.parametrize('kind', NETWORKS)
    def test_networks_of_every_mixer_and_aggregator(self, folder, kind):
        options = {**NETWORKS[kind], 'out_indices': (0, 1), 'in_channels': 2, 'drop_path_rate': 0.1, 'with_cp': (1,)}
        network = randomise(SparXNet(TWO_STAGES, **options)).eval()
        network.save_pretrained(folder)
        found = SparXNet.from_pretrained(folder)
        assert_same(found, network, 2)
        assert not found.training
        assert found.stages[1].layers[-1].drop_path.rate == pytest.approx(0.1)
        assert [stage.with_cp for stage in found.stages] == [False, True]

    @pytest.mark.parametrize('family', [SparXMamba, SparXSwin, VMamba])
    def test_classifiers_of_every_family(self, folder, family):
        classifier = randomise(SparXClassifier(family(SMALL_ARCH, out_indices=(3,), output_norm=False), 5)).eval()
        classifier.save_pretrained(folder)
        found = SparXClassifier.from_pretrained(folder)
        assert_same(found, classifier)
        assert type(found.backbone) is family

    def test_a_classifier_of_imagenet(self, folder):
        """Its number of classes is not given."""
        classifier = randomise(SparXClassifier(build(out_indices=(3,), output_norm=False))).eval()
        classifier.save_pretrained(folder)
        assert read(folder)['num_classes'] == 1000
        assert_same(SparXClassifier.from_pretrained(folder), classifier)

    def test_named_sizes_stay_a_name(self, folder, monkeypatch):
        monkeypatch.setitem(SparXMamba.ARCHITECTURES, 'tiny', Architecture.of(SMALL_ARCH, {}))
        network = randomise(SparXMamba()).eval()
        network.save_pretrained(folder)
        assert read(folder)['arch'] == 'tiny'
        assert_same(SparXMamba.from_pretrained(folder), network)

    def test_defaults_are_written(self, saved, monkeypatch):
        """A later version may have other defaults."""
        network, folder = saved
        assert [read(folder)[name] for name in ('in_channels', 'output_norm', 'out_indices')] == [3, True, [0, 1, 2, 3]]
        monkeypatch.setitem(SparXNet.__init__.__kwdefaults__, 'output_norm', False)
        assert_same(SparXMamba.from_pretrained(folder), network)

    @pytest.mark.parametrize('dtype', [torch.float64, torch.bfloat16])
    def test_other_types(self, folder, dtype):
        network = randomise(build(out_indices=(0,))).to(dtype).eval()
        network.save_pretrained(folder)
        assert_same(SparXMamba.from_pretrained(folder), network)

    def test_sizes_and_styles_that_are_objects(self, folder):
        arch = Architecture.of({**SMALL_ARCH, 'shortcut_scales': [True] * 4, 'reductions': [4, 2, 2, 1]}, {})
        style = Style.of({'type': 'vmamba', 'position_encoding': True})
        network = randomise(SparXMamba(arch, style=style)).eval()
        network.save_pretrained(folder)
        assert read(folder)['style'] == {'type': 'vmamba', 'position_encoding': True}
        found = SparXMamba.from_pretrained(folder)
        assert (found.arch, found.style) == (arch, style)
        assert_same(found, network)

    def test_the_arguments_are_those_of_the_call(self, saved):
        """Dicts that changed after the call do not count, nor does the source of the weights."""
        _, folder = saved
        mixer = {'type': 'SS2D', 'expand': 1}
        network = build(token_mixer=mixer, init_cfg={'type': 'Pretrained', 'checkpoint': 'secret.pth'})
        mixer['expand'] = 2
        network.save_pretrained(folder)
        assert read(folder)['token_mixer'] == {'type': 'SS2D', 'expand': 1}
        assert 'secret' not in (folder / 'config.json').read_text()
        assert_same_bits(SparXMamba.from_pretrained(folder).state_dict(), network.state_dict())

    def test_a_compiled_network(self, folder):
        network = randomise(build()).eval()
        torch.compile(network).save_pretrained(folder)
        assert_same(SparXMamba.from_pretrained(folder), network)

    def test_a_custom_mixer(self, folder, monkeypatch):
        monkeypatch.setattr(TOKEN_MIXERS, '_module_dict', dict(TOKEN_MIXERS.module_dict))

        class Mine(nn.Conv2d):
            def __init__(self, dim, aggregator=None, *, index=0):
                super().__init__(dim, dim, 1)

            def forward(self, x, *sources):
                return super().forward(x)

        network = randomise(SparXMamba(TWO_STAGES, out_indices=(0, 1), token_mixer={'type': Mine})).eval()
        with pytest.raises(ValueError, match=r'token_mixer: Mine is not registered, so that config\.json cannot'):
            network.save_pretrained(folder)
        assert not folder.exists()
        TOKEN_MIXERS.register_module(module=Mine)
        network.save_pretrained(folder)
        assert read(folder)['token_mixer'] == {'type': 'Mine'}
        assert_same(SparXMamba.from_pretrained(folder), network)

    def test_a_custom_class(self, folder, monkeypatch):
        monkeypatch.setattr(MODELS, '_module_dict', dict(MODELS.module_dict))

        class Gated(SparXMamba):
            def __init__(self, *args, gate: bool = False, **kwargs):
                super().__init__(*args, **kwargs)
                self.gate = gate

        network = randomise(Gated(SMALL_ARCH, gate=True, drop_path_rate=0.1)).eval()
        network.save_pretrained(folder)
        found = Gated.from_pretrained(folder)
        assert found.gate
        assert_same(found, network)
        with pytest.raises(ValueError, match="or the registered name of another network of mmsparx, got 'Gated'"):
            SparXMamba.from_pretrained(folder)
        MODELS.register_module(module=Gated)
        assert type(SparXMamba.from_pretrained(folder)) is Gated

    def test_the_mixin_of_the_hub_reads_and_writes_the_same(self, saved, tmp_path):
        hub = pytest.importorskip('huggingface_hub', reason='its mixin is what is compared')

        class Mixed(hub.PyTorchModelHubMixin, SparXMamba):
            pass

        network, folder = saved
        mixed = Mixed.from_pretrained(str(folder), strict=True)
        assert_same(mixed, network)
        mixed.save_pretrained(tmp_path / 'mixed')
        assert_same(SparXMamba.from_pretrained(tmp_path / 'mixed'), network)


class TestOptions:
    def test_take_the_place_of_the_arguments(self, saved):
        network, folder = saved
        found = SparXMamba.from_pretrained(folder, drop_path_rate=0.3, frozen_stages=1)
        assert_same(found, network)
        assert found.stages[-1].layers[-1].drop_path.rate == pytest.approx(0.3)
        assert not found.stem[0].weight.requires_grad

    def test_fewer_stages(self, saved):
        network, folder = saved
        maps = network(x := torch.randn(1, 3, 40, 36))
        found = SparXMamba.from_pretrained(folder, out_indices=(1, 2))(x)
        assert all(map(torch.equal, found, maps[1:3]))
        raw = SparXMamba.from_pretrained(folder, output_norm=False)
        assert len(raw.out_norms) == 0
        assert torch.equal(network.out_norms['3'](raw(x)[3]), maps[3])

    def test_of_a_classifier(self, folder):
        classifier = randomise(build_classifier()).eval()
        classifier.save_pretrained(folder)
        found = SparXClassifier.from_pretrained(folder, backbone={'drop_path_rate': 0.2})
        assert found.backbone.stages[-1].layers[-1].drop_path.rate == pytest.approx(0.2)
        with pytest.raises(RuntimeError, match='Its head is of other classes: 5 in the file, 7 in the model'):
            SparXClassifier.from_pretrained(folder, num_classes=7)

    def test_an_unknown_one(self, saved):
        with pytest.raises(ValueError, match="unexpected keyword argument 'drop_path'"):
            SparXMamba.from_pretrained(saved[1], drop_path=0.1)


class TestTheBackboneOfAClassifier:
    @pytest.fixture
    def classifier(self, folder):
        classifier = randomise(build_classifier()).eval()
        classifier.save_pretrained(folder)
        return classifier

    def test_has_the_maps_of_all_stages(self, classifier, folder):
        found = SparXMamba.from_pretrained(folder)
        assert found.out_indices == (0, 1, 2, 3)
        assert len(found.out_norms) == 0
        assert_same_bits(found.state_dict(), classifier.backbone.state_dict())
        x = torch.randn(1, 3, 40, 36)
        assert torch.equal(found(x)[3], classifier.backbone(x)[0])

    def test_output_norms_on_request(self, classifier, folder):
        found = SparXMamba.from_pretrained(folder, output_norm=True)
        assert found.out_norms['0'].weight.eq(1).all()
        assert torch.equal(found.stem[0].weight, classifier.backbone.stem[0].weight)

    def test_of_another_family(self, classifier, folder):
        with pytest.raises(ValueError, match=r'is of a SparXMamba: SparXMamba\.from_pretrained reads it, not VMamba'):
            VMamba.from_pretrained(folder)


class TestRefusals:
    def test_another_class(self, saved):
        for cls in (SparXSwin, SparXClassifier):
            with pytest.raises(ValueError, match=rf'SparXMamba\.from_pretrained reads it, not {cls.__name__}'):
                cls.from_pretrained(saved[1])
        assert type(SparXNet.from_pretrained(saved[1])) is SparXMamba

    @pytest.mark.parametrize(
        ('changes', 'message'),
        [
            ({'channels': 3}, "unknown argument 'channels'; known ones: arch, in_channels, out_indices"),
            ({'drop_path_rate': 'a'}, "expected drop_path_rate to be a number, got 'a'"),
            ({'in_channels': True}, 'expected in_channels to be an integer, got True'),
            ({'output_norm': 1}, 'expected output_norm to be true or false, got 1'),
            ({'out_indices': 3}, 'expected out_indices to be a list, got 3'),
            ({'with_cp': 'all'}, "expected with_cp to be true or false or a list, got 'all'"),
            ({'with_cp': [[]]}, r"config\.json: .*unhashable type: 'list'"),
            ({'arch': 'huge'}, "config.json: unknown arch 'huge'; known ones: tiny, small, base"),
            ({'in_channels': 0}, r'config\.json: .*in_channels'),
            ({'token_mixer': {'type': 'SS2D', 'expnd': 1}}, "unexpected keyword argument 'expnd'"),
            ({'type': 'SparXClsHead'}, 'or the registered name of another network of mmsparx'),
            ({'type': ['SparXMamba']}, 'or the registered name of another network of mmsparx'),
            ({'init_cfg': {'type': 'Pretrained', 'checkpoint': 'x.pth'}}, 'init_cfg is not read from a file'),
            ({'pretrained': 'x.pth'}, 'pretrained is not read from a file'),
        ],
    )
    def test_arguments(self, saved, changes, message):
        change(saved[1], **changes)
        with pytest.raises(ValueError, match=message):
            SparXMamba.from_pretrained(saved[1])

    @pytest.mark.parametrize(
        ('changes', 'place'),
        [
            ({'token_mixer': {'type': 'subprocess.Popen', 'args': ['true']}}, 'token_mixer.type'),
            ({'token_mixer': {'type': 'mmsparx.layers.mixers.SS2D'}}, 'token_mixer.type'),
            ({'token_mixer': {'type': ['SS2D']}}, 'token_mixer.type'),
            ({'token_mixer': {'expand': 1}}, 'token_mixer.type'),
            ({'aggregator': {'type': 'SS2D'}}, 'aggregator.type'),
            ({'token_mixer': {'type': 'SS2D', 'norm': {'type': 'torch.nn.Flatten'}}}, 'token_mixer.norm.type'),
            ({'arch': {'stages': [{'type': 'os.system'}]}}, r'arch.stages\[0\].type'),
            ({'norm_cfg': {'type': 'torch.nn.BatchNorm2d'}}, 'norm_cfg'),
            ({'style': {'type': 'torch.nn.Flatten'}}, 'unknown style'),
            ({'style': {'type': {}}}, 'style.type'),
        ],
    )
    def test_names_of_classes(self, saved, monkeypatch, changes, place):
        """A name that is not registered does not import anything."""
        asked = []
        monkeypatch.setattr('mmsparx.registry.get_object_from_string', lambda name: asked.append(name))
        change(saved[1], **changes)
        with pytest.raises(ValueError, match=place):
            SparXMamba.from_pretrained(saved[1])
        assert not asked

    def test_a_backbone_within_a_classifier(self, folder):
        build_classifier().save_pretrained(folder)
        backbone = read(folder)['backbone']
        for changed in ({**backbone, 'type': 'torch.nn.Conv2d'}, {**backbone, 'token_mixer': {'type': 'os.system'}}, 3):
            change(folder, backbone=changed)
            with pytest.raises(ValueError, match=r'config\.json'):
                SparXClassifier.from_pretrained(folder)

    @pytest.mark.parametrize(
        ('content', 'message'),
        [
            (b'{"arch": ', 'is not JSON that is read here'),
            (b'\xff\xfe\x00', 'is not JSON that is read here'),
            (b'[' * 100_000, 'is not JSON that is read here'),
            (b'{"arch": ' + b'[' * 100 + b']' * 100 + b'}', 'lists or objects within each other, 16 and deeper'),
            (b'{"drop_path_rate": NaN}', 'NaN is not a number of JSON'),
            (b'{"in_channels": ' + b'1' * 5000 + b'}', 'is not JSON that is read here'),
            (b'["tiny"]', r"expected a JSON object of arguments, got \['tiny'\]"),
            (b' ' * (2**20 + 1), 'expected a config of at most 1048576 bytes, got a larger file'),
        ],
    )
    def test_files_that_are_not_configs(self, saved, content, message):
        (saved[1] / 'config.json').write_bytes(content)
        with pytest.raises(ValueError, match=message):
            SparXMamba.from_pretrained(saved[1])

    def test_weights_that_do_not_match(self, saved):
        network, folder = saved
        change(folder, arch={**SMALL_ARCH, 'channels': [8, 16, 24, 36]})
        with pytest.raises(RuntimeError, match='channels: 8, 16, 24, 32 in the file, 8, 16, 24, 36 in the model'):
            SparXMamba.from_pretrained(folder)
        network.save_pretrained(folder)
        change(folder, output_norm=False)  # a backbone's file of another task may have them, not that of a folder
        with pytest.raises(RuntimeError, match=r'8 UNEXPECTED in the file: out_norms\.0\.weight'):
            SparXMamba.from_pretrained(folder)

    def test_weights_that_would_run(self, saved):
        """A pickle in the place of safetensors, or beside it under the name that timm writes."""
        _, folder = saved

        class Hostile:
            def __reduce__(self):
                return os.mkdir, (str(folder / 'mark'),)

        (folder / 'model.safetensors').unlink()
        for name in ('pytorch_model.bin', 'model.safetensors'):
            torch.save({'state_dict': {}, 'extra': Hostile()}, folder / name)
            with pytest.raises(RuntimeError, match=r'it asks to call posix\.mkdir'):
                SparXMamba.from_pretrained(folder)
        assert not (folder / 'mark').exists()

    def test_weights_that_are_cut_off(self, saved):
        file = saved[1] / 'model.safetensors'
        file.write_bytes(file.read_bytes()[:-1])
        with pytest.raises(RuntimeError, match=r'model\.safetensors is damaged'):
            SparXMamba.from_pretrained(saved[1])

    def test_published_names(self, folder):
        """A hand-made folder around the authors' file."""
        build_classifier().save_pretrained(folder)
        (folder / 'model.safetensors').unlink()
        torch.save(published_classifier(), folder / 'pytorch_model.bin')
        found = SparXClassifier.from_pretrained(folder)
        assert torch.equal(found.head.fc.bias, published_classifier()['classifier.3.bias'])

    @pytest.mark.parametrize('name', ['config.json', 'model.safetensors'])
    def test_a_file_that_is_missing(self, saved, name):
        (saved[1] / name).unlink()
        with pytest.raises(FileNotFoundError, match=f'expected {name}.* in the folder, as save_pretrained writes it'):
            SparXMamba.from_pretrained(saved[1])


class TestNotSaved:
    def test_a_network_that_was_changed(self, folder):
        classifier = build_classifier()
        classifier.head.fc = nn.Linear(32, 7)
        with pytest.raises(ValueError, match=r'2 tensors differ, such as head\.fc\.bias: \(7,\) in it, \(5,\) by its'):
            classifier.save_pretrained(folder)
        assert not folder.exists()

    @pytest.mark.parametrize('value', [torch.float16, {1: 2}, float('inf')])
    def test_an_argument_that_is_no_data(self, folder, value):
        class Odd(SparXMamba):
            def __init__(self, arch, odd):
                super().__init__(arch)

        with pytest.raises(ValueError, match=r'odd\.x: expected finite numbers, strings, and lists and dicts of them'):
            Odd(SMALL_ARCH, odd={'x': value}).save_pretrained(folder)

    def test_an_unknown_licence(self, folder):
        with pytest.raises(ValueError, match='license: expected an identifier'):
            build().save_pretrained(folder, license='mit\ntags: x')


def test_nothing_but_names_of_the_files(saved):
    """No temporary file remains, and no path of the machine is written."""
    _, folder = saved
    assert sorted(path.name for path in folder.iterdir()) == ['README.md', 'config.json', 'model.safetensors']
    assert not [path for path in folder.iterdir() if str(Path.home()).encode() in path.read_bytes()]
