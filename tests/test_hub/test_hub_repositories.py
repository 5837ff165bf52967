"""Repositories of the Hugging Face Hub, without network: the layout of its cache, and a stand-in for its API."""

import json
import shutil
import sys
from pathlib import Path

import pytest
from helpers import randomise
from helpers.weights import assert_same_bits, build

from mmsparx.models import SparXMamba

pytest.importorskip('safetensors', reason='the format of the weights')
COMMIT = '0123456789abcdef0123456789abcdef01234567'


@pytest.fixture
def network():
    return randomise(build()).eval()


class TestReading:
    @pytest.fixture(autouse=True)
    def hub(self):
        return pytest.importorskip('huggingface_hub', reason='it is what reads')

    @pytest.fixture
    def cache(self, network, tmp_path):
        """A folder as huggingface_hub leaves it after a download, of the branch 'main'."""
        repository = tmp_path / 'models--owner--sparx'
        network.save_pretrained(repository / 'snapshots' / COMMIT)
        (repository / 'refs').mkdir()
        (repository / 'refs/main').write_text(COMMIT)
        return tmp_path

    def load(self, cache, name='owner/sparx', **options):
        return SparXMamba.from_pretrained(name, cache_dir=cache, local_files_only=True, **options)

    def test_a_repository(self, network, cache):
        for revision in (None, 'main', COMMIT):
            assert_same_bits(self.load(cache, revision=revision).state_dict(), network.state_dict())

    def test_weights_as_timm_writes_them(self, network, cache):
        import torch

        snapshot = cache / 'models--owner--sparx/snapshots' / COMMIT
        (snapshot / 'model.safetensors').unlink()
        torch.save(network.state_dict(), snapshot / 'pytorch_model.bin')
        assert_same_bits(self.load(cache).state_dict(), network.state_dict())

    def test_missing_files(self, cache, hub):
        with pytest.raises(hub.utils.EntryNotFoundError):
            self.load(cache, 'owner/other')
        (cache / 'models--owner--sparx/snapshots' / COMMIT / 'model.safetensors').unlink()
        with pytest.raises(hub.utils.EntryNotFoundError):
            self.load(cache)


@pytest.mark.parametrize('name', ['./folder', '/no/folder', 'a/b/c', 'owner/na me', '', '../x', 'https://x.org/a'])
def test_neither_folder_nor_repository(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, 'huggingface_hub', None)  # the package is not used
    if name:
        with pytest.raises(ValueError, match=r"or the id of a repository as 'owner/name', got .*, which is no folder"):
            SparXMamba.from_pretrained(name)
    Path('x.pth').touch()
    with pytest.raises(ValueError, match=r"got 'x\.pth', which is a file"):
        SparXMamba.from_pretrained('x.pth')


class TestWithoutTheHub:
    @pytest.fixture(autouse=True)
    def _without(self, monkeypatch):
        monkeypatch.setitem(sys.modules, 'huggingface_hub', None)

    def test_folders_work(self, network, tmp_path):
        network.save_pretrained(tmp_path)
        assert_same_bits(SparXMamba.from_pretrained(tmp_path).state_dict(), network.state_dict())

    def test_repositories_say_what_to_install(self, network):
        with pytest.raises(ImportError, match=r"reading 'owner/sparx', which is no folder here.*'mmsparx\[hub\]'"):
            SparXMamba.from_pretrained('owner/sparx')
        with pytest.raises(ImportError, match=r"push_to_hub needs huggingface_hub.*pip install 'mmsparx\[hub\]'"):
            network.push_to_hub('owner/sparx')


class TestUploading:
    @pytest.fixture
    def api(self, monkeypatch, tmp_path):
        """A stand-in for huggingface_hub.HfApi, which records calls and keeps uploaded files."""
        hub = pytest.importorskip('huggingface_hub', reason='its API is replaced')

        class Api:
            calls, has_card, uploaded = [], False, tmp_path / 'uploaded'

            def __init__(self, **options):
                self.calls.append(('HfApi', options))

            def create_repo(self, repo_id, **options):
                self.calls.append(('create_repo', {'repo_id': repo_id, **options}))
                return hub.RepoUrl(f'https://huggingface.co/owner/{repo_id}')

            def file_exists(self, repo_id, filename, **options):
                return self.has_card

            def upload_folder(self, *, folder_path, **options):
                self.calls.append(('upload_folder', options))
                shutil.copytree(folder_path, self.uploaded)
                return 'https://huggingface.co/owner/sparx/commit/1'

        monkeypatch.setattr(hub, 'HfApi', Api)
        return Api

    def test_an_upload(self, api, network):
        address = network.push_to_hub('sparx', license='mit', private=True, token='t', branch='b', create_pr=True)
        assert address == 'https://huggingface.co/owner/sparx/commit/1'
        (_, given), (_, made), (_, sent) = api.calls
        assert (given['token'], given['library_name']) == ('t', 'mmsparx')
        assert made == {'repo_id': 'sparx', 'private': True, 'exist_ok': True}
        assert sent == {
            'repo_id': 'owner/sparx',
            'commit_message': 'Add SparXMamba',
            'revision': 'b',
            'create_pr': True,
            'ignore_patterns': None,
        }
        assert_same_bits(SparXMamba.from_pretrained(api.uploaded).state_dict(), network.state_dict())
        card = (api.uploaded / 'README.md').read_text()
        assert "from_pretrained('owner/sparx')" in card
        assert 'license: mit\n' in card

    def test_a_card_that_is_there_stays(self, api, network, monkeypatch):
        monkeypatch.setattr(api, 'has_card', True)
        network.push_to_hub('sparx')
        assert api.calls[-1][1]['ignore_patterns'] == ['README.md']

    def test_no_repository_is_made_for_a_network_that_cannot_be_saved(self, api, network):
        network.stem[0] = None
        with pytest.raises(ValueError, match='the network was changed after it was built'):
            network.push_to_hub('sparx')
        assert [name for name, _ in api.calls] == ['HfApi']


def test_the_config_is_readable(network, tmp_path):
    network.save_pretrained(tmp_path)
    text = (tmp_path / 'config.json').read_text()
    assert text.endswith('\n}\n')
    assert next(iter(json.loads(text).items())) == ('type', 'SparXMamba')
