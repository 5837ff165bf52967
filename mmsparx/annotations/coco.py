"""One pass over an annotation file in COCO's format."""

import gc
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np

from mmsparx.annotations import coco_faults as faults
from mmsparx.annotations.findings import Findings, Kind, shortened
from mmsparx.annotations.masks import NO_MASK, check_mask, plain_masks
from mmsparx.annotations.numbers import (
    Extent,
    Size,
    agree,
    are_numbers,
    as_numbers,
    is_far_outside,
    is_inside,
    is_whole,
)

# Largest ratio of areas: a mask has no more than its box, whose corners may be counted in and rounded.
_AREA_AND_BOX = 1.1
# Annotations that are looked at together.
_AT_ONCE = 1024


class _Missing:
    def __repr__(self) -> str:
        return 'missing'


_MISSING = _Missing()


@dataclass
class CocoFile:
    """The findings of a check, and the data that its caller compares with other files and settings.

    Args:
        findings: Errors and warnings.
        categories: Names of the categories by their ids, in the order of the file.
        image_ids: Ids of the images.
    """

    findings: Findings
    categories: dict[int, str]
    image_ids: set[int]


def check_coco(path: str | os.PathLike, masks: bool | None = None, annotated: bool = True) -> CocoFile:
    """Check an annotation file in COCO's format.

    An error is what would crash a run, or change what is learned or measured. A warning is what mmdet and pycocotools
    pass over.

    Args:
        path: Annotation file.
        masks: Whether masks are used. Without, they are not missed, and what is wrong with them is a warning; None
            takes them for used where the file has any.
        annotated: Whether objects are annotated, as they are not in a file that lists images to be tested.

    Raises:
        OSError: The file cannot be read.
    """
    findings = Findings(path)
    data = _read(path, findings)
    if data is None:
        return CocoFile(findings, {}, set())
    lists = ['images', 'categories', 'annotations'] if annotated or 'annotations' in data else ['images', 'categories']
    if wrong := [key for key in lists if not isinstance(data.get(key), list)]:
        findings.add(faults.NOT_COCO, f'{" and ".join(wrong)} {"is" if len(wrong) == 1 else "are"} missing or no list')
        return CocoFile(findings, {}, set())
    categories = _check_categories(data['categories'], findings)
    sizes = _check_images(data['images'], findings)
    annotations = data.get('annotations', ())
    if masks is None:
        masks = any(isinstance(each, dict) and each.get('segmentation') for each in annotations)
    if annotations:
        _Annotations(findings, sizes, categories, masks).check(annotations)
    return CocoFile(findings, categories, set(sizes))


def _read(path: str | os.PathLike, findings: Findings) -> dict | None:
    try:
        with open(path) as file, _without_collections():
            data = json.load(file)
    except (ValueError, RecursionError) as error:
        findings.add(faults.UNREADABLE, got=f'{type(error).__name__}: {error}')
        return None
    if not isinstance(data, dict):
        findings.add(faults.NOT_COCO, got=data)
        return None
    return data


@contextmanager
def _without_collections() -> Iterator[None]:
    """While millions of objects are made, looking through them for cycles takes most of the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _objects(entries: list, name: str, findings: Findings) -> Iterator[tuple[int, dict]]:
    for index, entry in enumerate(entries):
        if isinstance(entry, dict):
            yield index, entry
        else:
            findings.add(faults.NOT_AN_OBJECT, f'{name}[{index}]', entry)


def _value(entry: dict, key: str) -> str:
    return f'{key} {shortened(entry.get(key, _MISSING))}'


def _check_categories(entries: list, findings: Findings) -> dict[int, str]:
    """The names by their ids, of those that have both."""
    names, seen = {}, set()
    for index, category in _objects(entries, 'categories', findings):
        number, name = category.get('id'), category.get('name')
        place = f'category {number} (categories[{index}])'
        if not is_whole(number):
            findings.add(faults.CATEGORY_ID, place, _value(category, 'id'))
            continue
        if number in names:
            findings.add(faults.CATEGORY_ID_TWICE, place, f'{names[number]!r} and {name!r}')
        if not isinstance(name, str) or not name:
            findings.add(faults.CATEGORY_NAME, place, _value(category, 'name'))
            name = ''
        elif name in seen:
            findings.add(faults.CATEGORY_NAME_TWICE, place, _value(category, 'name'))
        seen.add(name)
        names[number] = name
    return names


def _check_images(entries: list, findings: Findings) -> dict[int, Size | None]:
    """The sizes by their ids; None where a size is wrong."""
    sizes: dict[int, Size | None] = {}
    files = set()
    for index, image in _objects(entries, 'images', findings):
        number, name = image.get('id'), image.get('file_name')
        width, height = image.get('width'), image.get('height')
        place = f'image {shortened(number)} (images[{index}])'
        size = None
        if not (is_whole(width) and is_whole(height) and width > 0 and height > 0):
            findings.add(faults.IMAGE_SIZE, place, f'{_value(image, "width")}, {_value(image, "height")}')
        elif width * height > faults.MOST_PIXELS:
            findings.add(faults.IMAGE_TOO_LARGE, place, f'{width}x{height}')
        else:
            size = width, height
            if max(size) > faults.MOST_SLENDER * min(size):
                findings.add(faults.IMAGE_TOO_SLENDER, place, f'{width}x{height}')
        if not isinstance(name, str) or not name:
            findings.add(faults.FILE_NAME, place, _value(image, 'file_name'))
        elif name in files:
            findings.add(faults.FILE_NAME_TWICE, place, name)
        else:
            files.add(name)
        if not is_whole(number):
            findings.add(faults.IMAGE_ID, place, _value(image, 'id'))
            continue
        if number in sizes:
            findings.add(faults.IMAGE_ID_TWICE, place, _value(image, 'file_name'))
        sizes[number] = size
    if not entries:
        findings.add(faults.NO_IMAGES)
    return sizes


class _Annotations:
    """The pass over the annotations.

    Args:
        findings: List that faults are added to.
        sizes: Width and height of the images by their ids, None where they are wrong.
        categories: Names by their ids.
        masks: Whether masks are used.
    """

    def __init__(self, findings: Findings, sizes: dict[int, Size | None], categories: dict[int, str], masks: bool):
        self.findings, self.sizes, self.categories, self.masks = findings, sizes, categories, masks
        self.ids: set[int] = set()
        self.used: set[int] = set()
        self.with_objects: set[int] = set()
        self.with_crowds: set[int] = set()

    def check(self, annotations: list) -> None:
        entries = list(_objects(annotations, 'annotations', self.findings))
        for start in range(0, len(entries), _AT_ONCE):
            chunk = entries[start : start + _AT_ONCE]
            for i in self._suspects([annotation for _, annotation in chunk]):
                self._check_one(*chunk[i])
        for image in sorted(self.with_crowds - self.with_objects):
            self.findings.add(faults.CROWDS_ONLY, f'image {image}')
        for category in sorted(self.categories.keys() - self.used):
            self.findings.add(faults.UNUSED_CATEGORY, f'category {category}', repr(self.categories[category]))

    def _suspects(self, annotations: list[dict]) -> Sequence[int]:
        """The annotations that may have a fault, to be checked one by one; the others are finished here.

        That is what makes the check fast. What is faultless is decided for all at once; which fault the others have is
        only known by `_check_one`.
        """
        everyone = range(len(annotations))
        try:
            with np.errstate(all='ignore'):  # values that are not finite are faults
                plain = self._plain(annotations)
        except (KeyError, TypeError):  # a key is missing, or a value cannot be in a set
            return everyone
        return everyone if plain is None else np.flatnonzero(~plain)

    def _plain(self, annotations: list[dict]) -> np.ndarray | None:
        """A mask of the faultless annotations; None if that cannot be decided for all at once."""
        keys = ('id', 'image_id', 'category_id', 'iscrowd', 'area', 'bbox')
        numbers, images, categories, crowds, areas, boxes = ([each[key] for each in annotations] for key in keys)
        if not (
            {int}.issuperset(map(type, chain(numbers, images, categories, crowds)))
            and self.sizes.keys() >= set(images)
            and self.categories.keys() >= set(categories)
            and {0, 1}.issuperset(crowds)
            and 0 not in numbers
            and len(set(numbers)) == len(numbers)
            and self.ids.isdisjoint(numbers)
        ):
            return None
        sizes = [self.sizes[image] for image in images]
        box, area = as_numbers(boxes), as_numbers(areas)
        if None in sizes or box is None or box.shape != (len(boxes), 4) or area is None or area.ndim != 1:
            return None
        size = np.array(sizes)
        width_height = box[:, 2:]
        extents = np.concatenate([box[:, :2], box[:, :2] + width_height], 1)
        plain = (width_height >= 1).all(1) & is_inside(extents, size)
        plain &= (extents[:, :2] < size).all(1) & (extents[:, 2:] > 0).all(1)
        plain &= (area > 0) & (area <= _AREA_AND_BOX * (width_height + 1).prod(1))
        masks = [each.get('segmentation') for each in annotations]
        plain &= plain_masks(masks, size, extents, self.masks)
        chosen = np.flatnonzero(plain).tolist()
        self.ids.update(numbers[i] for i in chosen)
        self.used.update(categories[i] for i in chosen)
        self.with_crowds.update(images[i] for i in chosen if crowds[i])
        self.with_objects.update(images[i] for i in chosen if not crowds[i])
        return plain

    def _check_one(self, index: int, annotation: dict) -> None:
        keys = ('id', 'image_id', 'category_id', 'bbox', 'iscrowd')
        number, image, category, box, crowd = map(annotation.get, keys)
        if not is_whole(number):
            self._add(faults.ANNOTATION_ID, annotation, index, 'id')
        elif number in self.ids:
            self._add(faults.ANNOTATION_ID_TWICE, annotation, index)
        elif number == 0:
            self._add(faults.ANNOTATION_ID_0, annotation, index)
        if is_whole(number):
            self.ids.add(number)
        size = None
        if not is_whole(image):
            self._add(faults.ANNOTATION_IMAGE, annotation, index, 'image_id')
        elif image not in self.sizes:
            self._add(faults.UNLISTED_IMAGE, annotation, index)
        else:
            size = self.sizes[image]
        if not is_whole(category) or category not in self.categories:
            self._add(faults.ANNOTATION_CATEGORY, annotation, index, 'category_id')
        else:
            self.used.add(category)
        if not isinstance(crowd, int) or crowd not in (0, 1):
            self._add(faults.CROWD, annotation, index, 'iscrowd')
        elif size is not None:
            (self.with_crowds if crowd else self.with_objects).add(image)
        extent = self._check_box(annotation, index, box, size)
        self._check_area(annotation, index, extent)
        self._check_mask(annotation, index, size, extent)

    def _add(self, kind: Kind, annotation: dict, index: int, *keys: str, got: str = '') -> None:
        """Count a fault of an annotation, with what stands at some of its keys."""
        image, number = (shortened(annotation.get(key, _MISSING)) for key in ('image_id', 'id'))
        got = ', '.join(filter(None, [*(_value(annotation, key) for key in keys), got]))
        self.findings.add(kind, f'image {image}, annotation {number} (annotations[{index}])', got)

    def _check_box(self, annotation: dict, index: int, box: object, size: Size | None) -> Extent | None:
        """The area that a box covers, if it is one."""
        if type(box) is not list or len(box) != 4 or not are_numbers(box):
            self._add(faults.BOX, annotation, index, 'bbox')
            return None
        left, top, width, height = box
        if width < 0 or height < 0:
            self._add(faults.NEGATIVE_BOX, annotation, index, 'bbox')
            return None
        extent = left, top, left + width, top + height
        if size is None:
            return extent
        if is_far_outside(extent, size):
            self._add(faults.FAR_BOX, annotation, index, 'bbox', got=f'the image is {size[0]}x{size[1]}')
            return None
        if width < 1 or height < 1:
            self._add(faults.EMPTY_BOX, annotation, index, 'bbox')
        elif left >= size[0] or top >= size[1] or extent[2] <= 0 or extent[3] <= 0:
            self._add(faults.BOX_ELSEWHERE, annotation, index, 'bbox')
        elif left < -1 or top < -1 or extent[2] > size[0] + 1 or extent[3] > size[1] + 1:
            self._add(faults.BOX_OUTSIDE, annotation, index, 'bbox')
        return extent

    def _check_area(self, annotation: dict, index: int, extent: Extent | None) -> None:
        area = annotation.get('area')
        if not are_numbers((area,)) or area < 0:
            self._add(faults.AREA, annotation, index, 'area')
        elif area == 0:
            self._add(faults.AREA_0, annotation, index)
        elif extent is not None:
            width, height = extent[2] - extent[0], extent[3] - extent[1]
            if area > _AREA_AND_BOX * (width + 1) * (height + 1):
                self._add(faults.AREA_TOO_LARGE, annotation, index, 'area', 'bbox')

    def _check_mask(self, annotation: dict, index: int, size: Size | None, extent: Extent | None) -> None:
        segmentation = annotation.get('segmentation')
        if segmentation is None or segmentation == []:
            if self.masks:
                self._add(NO_MASK, annotation, index, 'segmentation')
            return
        mask = check_mask(segmentation, size)
        for kind, got in mask.faults:
            kind = kind if self.masks else replace(kind, is_error=False)
            self._add(kind, annotation, index, got=got if isinstance(got, str) else shortened(got))
        if mask.extent is not None and extent is not None and not agree(np.array([mask.extent]), np.array([extent])):
            places = ' and '.join(', '.join(f'{x:g}' for x in each) for each in (extent, mask.extent))
            self._add(faults.BOX_AND_MASK, annotation, index, got=f'they reach from x1, y1 to x2, y2: {places}')
