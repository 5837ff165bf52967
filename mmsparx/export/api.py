"""`export`: from a model to a file that has been compared with it."""

import copy
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from mmsparx.export import checks, requirements
from mmsparx.export.fold import fold
from mmsparx.export.requirements import ONNX, OPENVINO, PT2
from mmsparx.export.runtimes import Run, open_file
from mmsparx.export.subjects import Subject, subject_of
from mmsparx.export.tracing import OPEN, trace
from mmsparx.layers.mixers import SS2D, SSM
from mmsparx.ops import native
from mmsparx.version import __version__

if TYPE_CHECKING:
    from onnx import ModelProto


@dataclass(frozen=True)
class Exported:
    """A file that was written, and how it was compared with the model.

    Attributes:
        file: File.
        description: JSON file beside it.
        errors: Largest error of the outputs, relative to each one's largest value: by the runtime, as `Run` names it,
            and the shape of the image.
        rounding: Largest error of weights in 16 bits against the model's own weights, infinite where more than one of
            twenty detections changes by more than 5 %; None for weights in 32 bits.
        single: Number of detections of a detector that only the model or only the file has, since rounding decides a
            suppression or the last place.
    """

    file: Path
    description: Path
    errors: Mapping[tuple[str, tuple[int, ...]], float]
    rounding: float | None = None
    single: int = 0

    @property
    def largest_error(self) -> float:
        """The largest of the errors."""
        return max(self.errors.values())

    def __str__(self) -> str:
        lines = [
            f'{runtime}, {"x".join(map(str, shape))}: largest error {error:.1e} of the largest value'
            for (runtime, shape), error in self.errors.items()
        ]
        if self.single:
            lines.append(f'{self.single} detections are found by one of the two alone, as rounding decides')
        if self.rounding == math.inf:
            lines.append(
                'weights in 16 bits: more than one of twenty detections differ from those in 32 bits by over 5 %, at a '
                'lowered score; measure the accuracy of the file before you use it'
            )
        elif self.rounding is not None:
            lines.append(f'weights in 16 bits: the outputs differ by up to {self.rounding:.1e} from those in 32 bits')
        return '\n'.join([*lines, f'wrote {self.file} and {self.description}'])


def export(
    model: nn.Module,
    file: str | os.PathLike,
    *,
    static: tuple[int, int] | None = None,
    inline: bool = False,
    fp16: bool = False,
    description: Mapping | None = None,
) -> Exported:
    """Write a model as a file for another runtime, and compare what the file gives with what the model gives.

    The format is that of the suffix: .onnx, .xml (OpenVINO, with its weights in a .bin beside) or .pt2 (torch.export).
    The file takes an image, (B, 3, H, W) in float32, that is already prepared. Batch, height and width are open, from
    32 on. Its outputs are, by the kind of the model, 'logits' (B, classes); a map for each stage; 'logits'
    (B, classes, H, W), at the image's size; or, for one image, 'boxes' (N, 4) as x1, y1, x2, y2 in its pixels, 'scores'
    (N,), 'labels' (N,) and 'masks' (N, s, s), which `paste_masks` puts into the image.

    The file is run at the traced size, at two others, at 32x32 and with another batch. onnxruntime runs it without
    `ort_library` and, where that was compiled, with it. Where an output differs from the model's by more than 1e-4 of
    its largest value, no file is left. A detector is compared with a lower score, too, by which it finds something in
    any image.

    Args:
        model: Network of this package, `SparXClassifier`, or model of timm's, mmpretrain's, mmseg's or mmdet's
            (Faster R-CNN, Mask R-CNN) over a network of this package. It is not changed.
        file: File to write, in a folder that is made where it is missing. A file that is there is replaced.
        static: Height and width of the image, in pixels, for a file of this size and batches of one image.
        inline: Whether a file of ONNX has standard operators alone: for runtimes that know no functions.
        fp16: Whether a file of ONNX keeps its weights in 16 bits. Arithmetic stays in 32.
        description: Further entries of the file's metadata and of the JSON file beside it, such as mean, std, classes.
            What the export itself knows (task, outputs, size, batch) is not overwritten.

    Raises:
        ValueError: The model, the suffix or the size is not among those that can be exported, or a weight is NaN.
        DisagreementError: The file does not agree with the model; the message names the first layer that differs.
        ModuleNotFoundError: A package of the extra `export` is not installed.
    """
    file = Path(file)
    kind = requirements.format_of(file)
    requirements.check_writer(kind)
    if inline and kind != ONNX:
        raise ValueError(f'export: inline is for files of ONNX alone, got {file.name}')
    if fp16 and kind != ONNX:
        raise ValueError(f'export: weights in 16 bits are for files of ONNX alone, got {file.name}; leave fp16 out')
    if static is not None and min(static) < 32:
        raise ValueError(f'export: expected a height and a width from 32 on, got {static[0]}x{static[1]}')
    subject = subject_of(copy.deepcopy(model).cpu().float())
    subject.eval()
    for name, value in subject.state_dict().items():
        if value.isnan().any():
            raise ValueError(f'export: {name} has values that are NaN, so that nothing can be compared')
    open_axes = () if static else subject.open_axes
    images = checks.images((1, *static) if static else OPEN, open_axes)
    settings = subject.settings(images)
    _set_buffers(subject, settings[0])
    subject.check(images)
    exact = [checks.run_torch(subject, image) for image in images]
    module = fold(subject)
    for image, outputs in zip(images, exact, strict=True):
        error = subject.compare(checks.run_torch(module, image), outputs).error
        if error > checks.TOLERANCE:
            raise checks.DisagreementError(
                f'export: folding changes the outputs by {error:.1e} of the largest value, for an image of '
                f'{image.shape}; nothing was written'
            )
    rounding = _round(module, images, exact) if fp16 else None
    about = {
        **(description or {}),
        'mmsparx': __version__,
        'task': subject.task,
        'outputs': list(subject.outputs),
        'size': list(static) if static else None,
        'batch': None if 0 in open_axes else 1,
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    part = checks.part_of(file)
    writer = _Writer(kind, inline, fp16, open_axes, images[0])
    try:
        made, errors, single = writer.make(module, subject.outputs), {}, 0
        for values in settings:
            for each in (subject, module):
                _set_buffers(each, values)
            writer.save(made, values, part, about)
            expected = [checks.run_torch(module if fp16 else subject, image) for image in images]
            for library in writer.libraries(module):
                run = open_file(part, library=library)
                for image, outputs in zip(images, expected, strict=True):
                    found = subject.compare(_outputs(run, image), outputs)
                    if found.error > checks.TOLERANCE:
                        layer = _find(writer, module, images, part, library=library)
                        how = f'by {found.error:.1e} of the largest value'
                        raise checks.DisagreementError(
                            f'export: {run.runtime} gives other outputs than the model, '
                            f'{f"in {found.single} detections" if found.single else how} for an image of '
                            f'{image.shape}; nothing was kept. The first layer that differs: {layer}'
                        )
                    case = (run.runtime, image.shape)
                    errors[case] = max(errors.get(case, 0.0), found.error)
                    single += found.single
        _rename(part, file)
    finally:
        for path in _files(part):
            path.unlink(missing_ok=True)
    beside = file.with_suffix('.json')
    beside.write_text(json.dumps(about, indent=2) + '\n')
    return Exported(file, beside, errors, rounding, single)


class _Writer:
    """Writes modules that take an image, all in one way."""

    def __init__(self, kind: str, inline: bool, fp16: bool, open_axes: tuple[int, ...], image: np.ndarray):
        self.kind, self.inline, self.fp16, self.open_axes = kind, inline, fp16, open_axes
        self.image = torch.from_numpy(image)

    def libraries(self, module: nn.Module) -> tuple[bool, ...]:
        """Whether the file is to be run by `ort_library`: without, and with it where that makes a difference."""
        scans = self.kind == ONNX and not self.inline and any(isinstance(m, (SS2D, SSM)) for m in module.modules())
        return (False, True) if scans and native.without_ort() is None else (False,)

    def make(self, module: nn.Module, outputs: tuple[str, ...]) -> 'ExportedProgram | ModelProto':
        """A module as the graph of the format."""
        program = trace(module, self.image, open_axes=self.open_axes, scan_nodes=self.kind != PT2)
        if self.kind == PT2:
            return program
        from mmsparx.export import onnx_format

        model = onnx_format.to_onnx(program, module, outputs, self.open_axes)
        if self.inline or self.kind == OPENVINO:
            model = onnx_format.inlined(model)
        return onnx_format.with_half_weights(model) if self.fp16 else model

    def save(
        self, made: 'ExportedProgram | ModelProto', values: Mapping[str, Tensor], file: Path, about: Mapping
    ) -> None:
        """Write a graph, with other values of some of its buffers."""
        if self.kind == PT2:
            made.state_dict.update(values)
            torch.export.save(made, str(file), extra_files={'mmsparx.json': json.dumps(about)})
            return
        from mmsparx.export import onnx_format

        onnx_format.set_values(made, {name: value.numpy() for name, value in values.items()})
        if self.kind == OPENVINO:
            from mmsparx.export import openvino_format

            openvino_format.write(made, file, about)
            return
        onnx_format.write(made, file, about)


def _set_buffers(module: nn.Module, values: Mapping[str, Tensor]) -> None:
    for name, value in values.items():
        module.get_buffer(name).copy_(value)


@torch.no_grad()
def _round(module: Subject, images: list[np.ndarray], exact: list[list[np.ndarray]]) -> float:
    """Round parameters and buffers to what 16 bits hold, in place; of the scans, the decays themselves.

    Returns:
        The largest error that this makes.
    """
    for name, value in (*module.named_parameters(), *module.named_buffers()):
        if value.is_floating_point() and value.dim():
            decays = name.endswith('_log')  # A_log, whose exponential is a constant in graphs
            rounded = (value.exp() if decays else value).half().float()
            value.copy_(rounded.log() if decays else rounded)
            if not value.isfinite().all():
                raise ValueError(f'export: {name} does not fit into 16 bits; leave fp16 out')
    pairs = zip(images, exact, strict=True)
    return max(module.compare(checks.run_torch(module, image), outputs, 0.05).error for image, outputs in pairs)


def _outputs(run: Run, image: np.ndarray) -> list[np.ndarray]:
    try:
        return run(image)
    except Exception as error:  # whatever a runtime raises
        raise checks.DisagreementError(
            f'export: {run.runtime} cannot run the file for an image of {image.shape}; nothing was kept: {error}'
        ) from error


def _find(writer: _Writer, module: Subject, images: list[np.ndarray], part: Path, library: bool) -> str:
    """The first layer that differs for any of the images."""
    layers = checks.Layers(module)
    checks.run_torch(layers, images[0])
    names = (*module.outputs, *layers.names)
    place = part.with_name(f'.layers{part.name}')
    try:
        writer.save(writer.make(layers, tuple(f'output{i}' for i in range(len(names)))), {}, place, {})
        run = open_file(place, library=library)
        for image in images:
            expected = checks.run_torch(layers, image)
            found = run(image)
            # The outputs come last.
            count = len(module.outputs)
            order = [*range(count, len(names)), *range(count)]
            first = checks.first_difference(
                [names[i] for i in order], [found[i] for i in order], [expected[i] for i in order]
            )
            if first:
                return first
    finally:
        for path in _files(place):
            path.unlink(missing_ok=True)
    return 'none, where each layer is an output'


def _files(file: Path) -> list[Path]:
    return [file, file.with_suffix('.bin')] if file.suffix == '.xml' else [file]


def _rename(part: Path, file: Path) -> None:
    for old, new in zip(reversed(_files(part)), reversed(_files(file)), strict=True):
        os.replace(old, new)
