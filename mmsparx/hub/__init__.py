"""Networks as folders, here and on the Hugging Face Hub: `from_pretrained`, `save_pretrained`, `push_to_hub`.

A folder has the files of huggingface_hub's `PyTorchModelHubMixin`: `config.json` with the arguments of the constructor,
`model.safetensors`, and a model card, `README.md`. `HubModel` gives a network the methods; `configs` turns arguments
into data and back, `files` finds a folder's files or downloads them, `timm_folders` knows what timm writes and reads,
and `cards` writes the model card.

Folders need the package safetensors. The package huggingface_hub is imported where something is downloaded or uploaded,
and nowhere else.
"""

from mmsparx.hub.configs import check_types
from mmsparx.hub.model import HubModel
from mmsparx.hub.names import PREFIXES, published_model

__all__ = ['PREFIXES', 'HubModel', 'check_types', 'published_model']
