"""Methods of a network to save it to a folder, and load it from one."""

import json
import os
import re
import tempfile
from collections.abc import Mapping
from functools import reduce
from pathlib import Path
from typing import ClassVar

import torch
from mmengine.registry import Registry
from torch import Tensor, nn
from typing_extensions import Self

from mmsparx.hub.cards import model_card
from mmsparx.hub.configs import (
    bind,
    check_arguments,
    check_types,
    defaults_of,
    encode_arguments,
    parameters_of,
    read_config,
)
from mmsparx.hub.files import CARD, CONFIG, WEIGHTS, Files, find_files, hub_package
from mmsparx.hub.timm_folders import TIMM_KEYS, from_timm, is_timm_config, to_timm
from mmsparx.registry import MODELS
from mmsparx.version import __version__
from mmsparx.weights import AtomicBackend, match_weights, read_weights
from mmsparx.weights.causes import Options
from mmsparx.weights.contents import Weights, encode_weights, without_wrappers

# Spelling of the options that help, in messages; a folder is loaded as a whole.
_OPTIONS = Options(
    network=lambda family, arch, same_family: f'{family}({arch!r})',
    channels="load_pretrained(model, 'FOLDER/model.safetensors', adapt_channels=True)",
    prefix=None,
    alone=None,
    differ=None,
)
_VERSION = 'mmsparx_version'
_LICENSE = re.compile(r'[\w.-]+')


class HubModel:
    """A network that folders and the Hugging Face Hub can hold; a base class beside `torch.nn.Module`.

    The arguments of the constructor are kept, and stand in config.json. A subclass may be built of other `HubModel`s;
    it then overrides `hub_arguments` and `from_config`.
    """

    # Registries of the parts that an argument is the config of, by the argument's name.
    hub_parts: ClassVar[Mapping[str, Registry]] = {}
    # Arguments that say how a network gets its weights, which a folder has itself.
    hub_omitted: ClassVar[frozenset[str]] = frozenset()
    pipeline_tag: ClassVar[str] = 'image-feature-extraction'

    def __new__(cls, *args, **kwargs) -> Self:
        network = super().__new__(cls)
        given = {name: _copied(x) for name, x in bind(cls, args, kwargs).items() if not isinstance(x, nn.Module)}
        network.__dict__['_hub_given'] = given  # nn.Module, whose __setattr__ asks for more, is not initialised yet
        return network

    def hub_arguments(self) -> dict[str, object]:
        """The arguments that the network was built with, and defaults, which may be others in a later version."""
        return {**defaults_of(type(self)), **self._hub_given}

    def to_config(self) -> dict[str, object]:
        """The class's name as `type`, and `hub_arguments`, as data for JSON.

        Raises:
            ValueError: An argument is not data, or a part of a class that is not registered.
        """
        given = {name: x for name, x in self.hub_arguments().items() if name not in self.hub_omitted}
        return {'type': type(self).__name__, **encode_arguments(given, self.hub_parts)}

    @classmethod
    def from_config(cls, config: Mapping[str, object], source: str = CONFIG, **options) -> Self:
        """Build a network from what `to_config` gives, which is checked; its values are initial ones.

        Args:
            config: Data as from JSON: the arguments, and a registered `type` of this class or a subclass; without it,
                this class.
            source: Name of the file, for messages.
            **options: Arguments in the place of those of the config. They are not checked as data, and may be classes.

        Raises:
            ValueError: The config is of another network, an argument is unknown or does not fit, or a part is not
                registered.
        """
        network = cls._network_of(config, source)
        return network._build({**network._arguments_of(config, source), **options}, source)

    @classmethod
    def _network_of(cls, config: Mapping, source: str) -> type[Self]:
        """The class that a config names: this one, or a registered one that is derived from it."""
        name = config.get('type', cls.__name__)
        if name == cls.__name__:
            return cls
        found = MODELS.module_dict.get(name) if isinstance(name, str) else None
        if not isinstance(found, type) or not issubclass(found, HubModel):
            raise ValueError(
                f'{source}: expected the type {cls.__name__}, or the registered name of another network of mmsparx, '
                f'got {str(name)[:100]!r}'
            )
        if not issubclass(found, cls):
            raise ValueError(f'{source} is of a {name}: {name}.from_pretrained reads it, not {cls.__name__}')
        return found

    @classmethod
    def _arguments_of(cls, config: Mapping, source: str) -> dict[str, object]:
        """The arguments in a config, checked."""
        parameters = parameters_of(cls)
        beside = {'type', _VERSION, *TIMM_KEYS} - parameters.keys()
        arguments = {name: x for name, x in config.items() if name not in beside}
        check_types(arguments, cls.hub_parts, cls.hub_omitted, source)
        check_arguments(arguments, parameters, source)
        return arguments

    @classmethod
    def _build(cls, arguments: Mapping[str, object], source: str) -> Self:
        try:
            return cls(**arguments)
        except (TypeError, ValueError) as error:
            raise ValueError(f'{source}: {error}') from error

    @classmethod
    def from_pretrained(
        cls,
        source: str | os.PathLike,
        *,
        revision: str | None = None,
        cache_dir: str | os.PathLike | None = None,
        token: str | bool | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
        **options,
    ) -> Self:
        """Build a network and load its weights, strictly and safely.

        Of a folder that holds a classifier, as `SparXClassifier.save_pretrained` and timm's `save_for_hf` write it, a
        backbone's class takes the backbone; it then has the maps of all stages, without output norms.

        Args:
            source: A folder, or the id of a repository on the Hugging Face Hub, as 'owner/name'. Folders are read
                without network, and without huggingface_hub.
            revision: Branch, tag or commit of the repository.
            cache_dir: Folder of the downloaded files.
            token: Access token, or whether to use the stored one.
            force_download: Whether to download files that the cache has.
            local_files_only: Whether to take files of the cache alone.
            **options: Arguments of the constructor in the place of those of the folder, as `drop_path_rate=0.2`.

        Returns:
            The network, in evaluation mode, on the CPU, in the type that its weights have in the file.

        Raises:
            RuntimeError: The weights cannot be read, or do not match; see `mmsparx.load_pretrained`.
            ValueError: The source is neither folder nor repository, or config.json does not fit.
            FileNotFoundError: A file is missing.
            ModuleNotFoundError: huggingface_hub, or safetensors, is needed and not installed.
        """
        files = find_files(
            source,
            revision=revision,
            cache_dir=cache_dir,
            token=token,
            force_download=force_download,
            local_files_only=local_files_only,
        )
        config, prefix = cls._config_in(files)
        network = cls.from_config(config, str(files.config), **options)
        state = read_weights(files.weights).state_dict
        if options:  # options may leave out output norms
            own, norms = network.state_dict(), f'{prefix}out_norms.'
            state = {k: x for k, x in state.items() if not k.startswith(norms) or k.removeprefix(prefix) in own}
        # Options may ask for output norms, or fewer stages; without them, nothing may differ.
        found, _ = match_weights(network, state, str(files.weights), prefix=prefix, whole=not options, options=_OPTIONS)
        types = [x.dtype for x in found.values() if x.is_floating_point()]
        network.to(reduce(torch.promote_types, types))
        network.load_state_dict(found, strict=False)
        return network.eval()

    @classmethod
    def _config_in(cls, files: Files) -> tuple[dict, str]:
        """The config of this class in a folder, and the prefix of its weights' names."""
        source = str(files.config)
        config = read_config(files.config)
        with_head = 'backbone' in parameters_of(cls)
        if is_timm_config(config):
            config = from_timm(config, source, with_head)
        backbone = config.get('backbone')
        if with_head or not isinstance(backbone, Mapping):
            return config, ''
        inside = {name: x for name, x in backbone.items() if name != 'out_indices'}
        if isinstance(last := backbone.get('out_indices'), list) and last and type(last[-1]) is int:
            inside['out_indices'] = list(range(last[-1] + 1))
        return inside, 'backbone.'

    def save_pretrained(
        self, folder: str | os.PathLike, *, license: str = 'apache-2.0', repo_id: str | None = None
    ) -> None:
        """Write config.json, model.safetensors and, where there is none yet, a model card, README.md.

        timm reads the folder as well: `timm.create_model('local-dir:FOLDER', pretrained=True)` after
        `import mmsparx.timm`, for networks of four stages, all of which are built.

        Args:
            folder: Folder to write into; it is made where it is not there.
            license: Licence of the weights for the model card, by its identifier on the Hub.
            repo_id: Repository on the Hub that the model card is for; by default the card speaks of a folder.

        Raises:
            ValueError: An argument of the constructor is not data, or the network was changed after it was built, so
                that the folder could not be loaded.
            ModuleNotFoundError: The package safetensors is not installed.
        """
        described, weights = self._contents(license)
        self._write(Path(folder).expanduser(), described, weights, license, repo_id)

    def _contents(self, license: str) -> tuple[dict, bytes]:
        """Contents of config.json and model.safetensors; an error if there cannot be such files."""
        if not _LICENSE.fullmatch(license):
            raise ValueError(f"license: expected an identifier, as 'apache-2.0', got {license!r}")
        config = self.to_config()
        state = without_wrappers(self.state_dict())
        self._check_rebuilt(config, state)
        described = {**config, _VERSION: __version__, **self._timm_entries(config)}
        return described, encode_weights(Weights(state), '.safetensors')

    def _write(self, folder: Path, described: Mapping, weights: bytes, license: str, repo_id: str | None) -> None:
        write = AtomicBackend()
        write.put(weights, folder / WEIGHTS)
        write.put_text(json.dumps(described, indent=2) + '\n', folder / CONFIG)
        if not (folder / CARD).exists():
            card = model_card(described, sum(p.numel() for p in self.parameters()), self.pipeline_tag, license, repo_id)
            write.put_text(card, folder / CARD)

    def _timm_entries(self, config: Mapping) -> dict:
        backbone = getattr(self, 'backbone', self)
        return to_timm(config, backbone.arch.channels, backbone.out_indices[-1])

    def _check_rebuilt(self, config: Mapping, state: Mapping[str, Tensor]) -> None:
        """See that a network of the config has these weights."""
        with torch.device('meta'):
            own = type(self).from_config(config).state_dict()
        shapes, expected = ({name: tuple(x.shape) for name, x in weights.items()} for weights in (state, own))
        names = sorted(shapes.keys() | expected.keys())
        if differs := [name for name in names if shapes.get(name) != expected.get(name)]:
            name = differs[0]
            raise ValueError(
                f'{type(self).__name__}: the network was changed after it was built, so that from_pretrained could not '
                f'load it: {len(differs)} tensors differ, such as {name}: {shapes.get(name, "none")} in it, '
                f'{expected.get(name, "none")} by its arguments. Build it with arguments that say so'
            )

    def push_to_hub(
        self,
        repo_id: str,
        *,
        license: str = 'apache-2.0',
        commit_message: str | None = None,
        private: bool | None = None,
        token: str | None = None,
        branch: str | None = None,
        create_pr: bool = False,
    ) -> str:
        """Upload what `save_pretrained` writes; a model card that the repository has stays.

        Args:
            repo_id: Repository, as 'owner/name'; it is made where it is not there.
            license: Licence of the weights, as for `save_pretrained`.
            commit_message: Message of the commit; by default one that names the class.
            private: Whether a new repository is private; None for what the owner has as default.
            token: Access token; by default the stored one.
            branch: Branch to write to.
            create_pr: Whether to open a pull request.

        Returns:
            Address of the commit.

        Raises:
            ModuleNotFoundError: huggingface_hub, or safetensors, is not installed.
            ValueError: See `save_pretrained`.
            OSError: The upload fails; the errors of huggingface_hub.
        """
        api = hub_package('push_to_hub').HfApi(token=token, library_name='mmsparx', library_version=__version__)
        described, weights = self._contents(license)  # before anything is made there
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id  # with its owner
        with tempfile.TemporaryDirectory() as folder:
            self._write(Path(folder), described, weights, license, repo_id)
            kept = [CARD] if api.file_exists(repo_id, CARD, revision=branch) else None
            commit = api.upload_folder(
                repo_id=repo_id,
                folder_path=folder,
                commit_message=commit_message or f'Add {type(self).__name__}',
                revision=branch,
                create_pr=create_pr,
                ignore_patterns=kept,
            )
        return str(commit)


def _copied(value: object) -> object:
    """A copy of dicts and lists, which the caller may change later; they become plain ones."""
    if isinstance(value, Mapping):
        return {key: _copied(x) for key, x in value.items()}
    return [_copied(x) for x in value] if isinstance(value, (list, tuple)) else value
