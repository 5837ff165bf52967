"""Class activation maps by Grad-CAM: where in an image the evidence for a score lies, as a layer has it.

Source: Selvaraju et al. (2017), through the library grad-cam, for any layer that gives a map, whatever it is given: the
library looks at what the layer returns, so a ganglion layer's several inputs make no difference.
"""

from collections.abc import Callable

import numpy as np
from torch import Tensor, nn

try:
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import RawScoresOutputTarget
except ModuleNotFoundError as error:
    if error.name != 'pytorch_grad_cam':
        raise
    raise ModuleNotFoundError(
        "class activations need grad-cam, which is not installed: pip install 'mmsparx[analysis]'", name=error.name
    ) from error


class LayerError(ValueError):
    """A layer shows nothing of a score; another one may."""


def class_activation(
    model: nn.Module,
    layer: nn.Module,
    x: Tensor,
    score: Callable[[Tensor], Tensor],
    to_map: Callable[[Tensor], Tensor] | None = None,
) -> np.ndarray:
    """The location of the evidence for a score: the positive part of the channels, weighted by their mean gradients.

    Args:
        model: Model in evaluation mode; none of its parameters needs a gradient.
        layer: Module of the model that runs once.
        x: One input, (1, C, H, W).
        score: Function of the input that runs the model; it returns a number, as a tensor without axes.
        to_map: Function that makes a map (1, channels, h, w) of what the layer returns, and of its gradient, where it
            returns something else.

    Returns:
        (H, W), float32, scaled so that its values go from 0 to 1; zeros where nothing in the layer speaks for the
        score, or all of it does evenly.

    Raises:
        LayerError: The layer does not run, or does not give a map of several positions, or the score does not depend on
            it.
    """
    cam = _GradCAM(_Scored(model, score, x), [layer], to_map)
    try:
        (found,) = cam(x.detach().requires_grad_(), [RawScoresOutputTarget()])
    finally:
        # The library's `with` would print an IndexError and go on.
        cam.activations_and_grads.release()
    return found


class _Scored(nn.Module):
    """A model whose output is a score, as the library wants it."""

    def __init__(self, model: nn.Module, score: Callable[[Tensor], Tensor], x: Tensor):
        super().__init__()
        self.place = nn.Parameter(
            x.new_empty(0), requires_grad=False
        )  # the library takes its device from the first one
        self.model = model
        self.score = score

    def forward(self, x: Tensor) -> Tensor:
        return self.score(x).reshape(1)


class _GradCAM(GradCAM):
    """The library's Grad-CAM, which says what is wrong with a layer."""

    def get_cam_weights(self, input_tensor, target_layer, target_category, activations, grads):
        if activations is None:
            raise LayerError('the layer does not run where the model looks at an image; choose another one')
        if activations.ndim != 4:
            raise LayerError(
                f'expected a layer that gives a map (1, channels, h, w), got {activations.shape}; choose another one'
            )
        if activations.shape[2:] == (1, 1):
            raise LayerError('the layer gives a map of one position, which shows no place; choose an earlier one')
        if grads is None:
            raise LayerError('the score does not depend on the layer; choose an earlier one')
        return super().get_cam_weights(input_tensor, target_layer, target_category, activations, grads)
