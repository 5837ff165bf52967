"""The preparation of an image by a model's test pipeline, for figures over many images of one size.

An image is resized with Pillow and cropped at its centre, which is what timm and this package's classification configs
do. Detectors and segmenters test on whole images, by OpenCV's resizing; here they get the centre of one that is resized
to the short side of their pipeline, since a mean over images needs images of one size.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from numbers import Integral

import numpy as np
import torch
from mmengine.config import Config
from PIL import Image
from torch import Tensor, nn

_RESAMPLING = {
    'nearest': Image.Resampling.NEAREST,
    'bilinear': Image.Resampling.BILINEAR,
    'bicubic': Image.Resampling.BICUBIC,
    'lanczos': Image.Resampling.LANCZOS,
    'box': Image.Resampling.BOX,
    'area': Image.Resampling.BOX,
}
# Times the pixels of the input that a resized image may have before the crop: one of 1x10000 would have 10000 times.
_MOST = 16


@dataclass(frozen=True)
class Preprocessing:
    """Image -> input of a model.

    Attributes:
        size: Height and width of the input, in pixels; None where the pipeline leaves images as they are.
        crop_ratio: Share of the resized image's sides that is cropped at its centre.
        whole: Whether the whole image is squeezed into `size`, whatever its shape.
        interpolation: Interpolation of the resizing, as 'bicubic'.
        mean, std: Mean and standard deviation per channel in RGB, for values from 0 to 255.
        bgr: Whether the model takes its channels in the order BGR.
    """

    size: tuple[int, int] | None
    crop_ratio: Fraction = Fraction(1)
    whole: bool = False
    interpolation: str = 'bilinear'
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    bgr: bool = False

    def at_size(self, side: int | None) -> 'Preprocessing':
        """The same preparation for square images of another side; unchanged for None."""
        return self if side is None else replace(self, size=(side, side))

    def check(self) -> None:
        """Fail where images would not become of one size.

        Raises:
            ValueError: There is no size, or one that Pillow takes for an attack.
        """
        if self.size is None:
            raise ValueError(
                'expected a size (--size), since the test pipeline of the config neither resizes nor crops'
            )

        most = 2 * (Image.MAX_IMAGE_PIXELS or math.inf)
        if math.prod(self.size) > most:
            height, width = self.size
            raise ValueError(f'--size: images of {height}x{width} are too large; Pillow makes up to {most} pixels')

    def __call__(self, image: Image.Image) -> Tensor:
        """An RGB image of any size -> (3, height, width), float32."""
        return self.normalise(np.asarray(self.resize(image)))

    def resize(self, image: Image.Image) -> Image.Image:
        """The resized and cropped image; errors as for `check`."""
        self.check()
        height, width = self.size
        resampling = _RESAMPLING[self.interpolation]
        if self.whole:
            return image.resize((width, height), resampling)
        # The short side, where the crop is square; for other crops, as much as both sides need.
        needed = [math.floor(side / self.crop_ratio) for side in (width, height)]
        scale = max(Fraction(side, given) for side, given in zip(needed, image.size, strict=True))
        resized = [math.floor(side * scale) for side in image.size]
        left, top = (round((side - crop) / 2) for side, crop in zip(resized, (width, height), strict=True))
        if math.prod(resized) <= _MOST * width * height:
            return image.resize(resized, resampling).crop((left, top, left + width, top + height))
        # This gives the same up to rounding, without resizing the part that is cropped away.
        across, down = (given / side for given, side in zip(image.size, resized, strict=True))
        box = (left * across, top * down, (left + width) * across, (top + height) * down)
        return image.resize((width, height), resampling, box=box)

    def normalise(self, image: np.ndarray) -> Tensor:
        """(H, W, 3) RGB from 0 to 255 -> (3, H, W), float32."""
        values = (torch.tensor(image, dtype=torch.float32) - torch.tensor(self.mean)) / torch.tensor(self.std)
        return (values.flip(-1) if self.bgr else values).permute(2, 0, 1).contiguous()

    def shown(self, x: Tensor) -> np.ndarray:
        """An input (3, H, W) as an image again: (H, W, 3), RGB, 8 bits."""
        values = x.detach().cpu().float().permute(1, 2, 0)
        values = (values.flip(-1) if self.bgr else values) * torch.tensor(self.std) + torch.tensor(self.mean)
        return values.round().clamp(0, 255).to(torch.uint8).numpy()


def of_config(cfg: Config) -> Preprocessing:
    """The preprocessing of a config of mmpretrain's, mmdet's or mmseg's kind.

    Raises:
        ValueError: There is no test pipeline, or the images are not RGB.
    """
    sizes = _sizes(test_pipeline(cfg))
    given = cfg.model.get('data_preprocessor') or cfg.get('data_preprocessor') or {}
    mean, std = (given.get(key) or (value,) * 3 for key, value in (('mean', 0.0), ('std', 1.0)))
    if len(mean) != 3 or len(std) != 3:
        raise ValueError(f'expected a model of RGB images, with a mean of three numbers, got {mean}')
    bgr = not (given.get('to_rgb') or given.get('bgr_to_rgb'))
    order = -1 if bgr else 1  # in the config, in the model's order
    return Preprocessing(**sizes, mean=tuple(mean)[::order], std=tuple(std)[::order], bgr=bgr)


def of_timm(module: nn.Module) -> Preprocessing:
    """The preprocessing of a model of timm's.

    Raises:
        ValueError: The images are not RGB.
    """
    from timm.data import resolve_model_data_config

    given = resolve_model_data_config(module)
    channels, *size = given['input_size']
    if channels != 3:
        raise ValueError(f'expected a model of RGB images, got one of {channels} channels')
    return Preprocessing(
        tuple(size),
        Fraction(str(given['crop_pct'])),
        given['crop_mode'] == 'squash',
        given['interpolation'] if given['interpolation'] in _RESAMPLING else 'bicubic',
        tuple(255 * value for value in given['mean']),
        tuple(255 * value for value in given['std']),
    )


def test_pipeline(cfg: Config) -> list[Mapping]:
    """The steps with which a config's test images are prepared, without those that load annotations.

    Raises:
        ValueError: The config has none.
    """
    dataset = cfg.get('test_dataloader', {}).get('dataset', {})
    while 'pipeline' not in dataset and 'dataset' in dataset:
        dataset = dataset['dataset']
    steps = dataset.get('pipeline') or cfg.get('test_pipeline')
    if not steps:
        raise ValueError(
            f'{cfg.filename}: expected a pipeline in test_dataloader.dataset, by which images are prepared, got none'
        )
    return [step for step in steps if 'Annotations' not in str(step['type'])]


def _sizes(steps: Sequence[Mapping]) -> dict:
    """`Preprocessing`'s fields that a pipeline's resizing and cropping give."""
    found = {'size': None}
    for step in steps:
        kind = str(step['type']).rpartition('.')[2]
        if kind == 'ResizeEdge':
            found.update(size=_pair(step['scale']), whole=False)
        elif kind == 'Resize' and 'scale' in step:
            short = not _is_pair(step['scale']) or step.get('keep_ratio', False)
            scale = _pair(step['scale'])
            found.update(size=(min(scale),) * 2 if short else scale[::-1], whole=not short)
        elif kind == 'CenterCrop' and found['size']:
            crop = _pair(step['crop_size'])
            found.update(size=crop, crop_ratio=Fraction(min(crop), min(found['size'])))
        elif kind == 'CenterCrop':
            found.update(size=_pair(step['crop_size']))
        if 'Resize' in kind and 'interpolation' in step:
            found.update(interpolation=step['interpolation'])
    return found


def _is_pair(value: int | Sequence[int]) -> bool:
    return not isinstance(value, Integral)


def _pair(value: int | Sequence[int]) -> tuple[int, int]:
    return tuple(value) if _is_pair(value) else (value, value)
