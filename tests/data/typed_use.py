"""Uses of the public API that a type checker has to understand; `test_typing` checks the file with mypy."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from torch import Tensor
from typing_extensions import assert_type

from mmsparx.analysis import complexity
from mmsparx.export import Exported, export, fold, open_file, paste_masks
from mmsparx.models import SparXClassifier, SparXMamba, SparXSwin, VMamba, load_pretrained
from mmsparx.ops import (
    available_backends,
    cross_merge,
    cross_scan,
    cross_selective_scan,
    depthwise_conv2d,
    map_norm,
    selective_scan,
)


def operators(x: Tensor) -> None:
    assert_type(selective_scan(x, x, x, x, x, delta_softplus=True), Tensor)
    assert_type(selective_scan(x, x, x, x, x, return_last_state=True), tuple[Tensor, Tensor])
    assert_type(cross_selective_scan(x, x, x, x, x, x), Tensor)
    assert_type(cross_merge(cross_scan(x), 3, 4), Tensor)
    assert_type(depthwise_conv2d(x, x, activation='gelu'), Tensor)
    assert_type(map_norm(x, x, x), Tensor)
    assert_type(available_backends(), dict[str, str])


def networks(x: Tensor) -> None:
    backbone = SparXMamba('tiny', out_indices=(0, 1, 2, 3), drop_path_rate=0.2)
    assert_type(backbone.forward(x), tuple[Tensor, ...])
    assert_type(SparXClassifier(SparXSwin('tiny'), num_classes=10).forward(x), Tensor)
    assert_type(VMamba.from_pretrained('folder'), VMamba)
    assert_type(backbone.save_pretrained('folder'), None)
    assert_type(load_pretrained(backbone, Path('weights.pth')).matched, list[str])
    assert_type(complexity(backbone, x).macs, int)


def files(image: np.ndarray) -> None:
    network = fold(SparXMamba('tiny'))
    assert_type(network, SparXMamba)
    assert_type(export(network, 'network.onnx', static=(224, 224)), Exported)
    run: Callable[[np.ndarray], list[np.ndarray]] = open_file(Path('network.onnx'), threads=1)
    boxes, _scores, _labels, masks = run(image)
    assert_type(paste_masks(masks, boxes, (224, 224)), np.ndarray)


def mistakes(x: Tensor) -> None:
    SparXMamba(3)  # type: ignore[arg-type]
    SparXMamba('tiny', nonsense=2)  # type: ignore[call-arg]
    selective_scan(x, x, x, x, x, backend=None)  # type: ignore[call-overload]
