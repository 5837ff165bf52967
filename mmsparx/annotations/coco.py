"""One pass over an annotation file in COCO's format."""

import gc
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np

from mmsparx.annotations.findings import Findings, Kind, shortened
from mmsparx.annotations.masks import NO_MASK, check_mask, plain_masks
from mmsparx.annotations.numbers import (
    LEAST_AGREEMENT,
    Extent,
    Size,
    agree,
    are_numbers,
    as_numbers,
    is_far_outside,
    is_inside,
    is_whole,
)

# OpenCV reads no image of more pixels.
_MOST_PIXELS = 2**30
# A longer side of 1333 leaves 7 pixels of the shorter one; a little more, and cv2.resize refuses the image.
_MOST_SLENDER = 200
# Of areas: a mask has no more than its box, whose corners may be counted in and rounded.
_AREA_AND_BOX = 1.1
# Annotations that are looked at together.
_AT_ONCE = 1024

UNREADABLE = Kind(
    "the file is not JSON in Python's default encoding", 'Export it again, as UTF-8 without a byte order mark.'
)
NOT_COCO = Kind(
    "the file is not in COCO's format; expected an object with the lists images, annotations and categories",
    "Convert it to COCO's format.",
)
NOT_AN_OBJECT = Kind('an entry of a list is no JSON object', 'Remove the entry, or export the file again.')
NO_IMAGES = Kind('the file lists no image', 'Name another file, or export it again.')

IMAGE_ID = Kind('the id of an image is missing or not an integer', 'Number the images 1, 2, 3, ...')
IMAGE_ID_TWICE = Kind(
    'several images have one id, so that all but the last are lost', 'Give each image an id of its own.'
)
FILE_NAME = Kind(
    'file_name of an image is missing or no text', 'Write the path of the image below data_prefix of the dataset.'
)
FILE_NAME_TWICE = Kind('several images have one file_name', 'Remove one of them, or merge their annotations.', False)
IMAGE_SIZE = Kind(
    'width or height of an image is missing or not an integer from 1 on',
    'Write the size of the image file in pixels.',
)
IMAGE_TOO_LARGE = Kind(
    f'an image has more than {_MOST_PIXELS} pixels, and OpenCV reads none of that size', 'Correct its size, or tile it.'
)
IMAGE_TOO_SLENDER = Kind(
    f'an image is more than {_MOST_SLENDER} times as long as it is wide; resized, nothing of its shorter side would be '
    'left',
    'Correct its size, tile the image, or remove it.',
)

CATEGORY_ID = Kind('the id of a category is missing or not an integer', 'Number the categories 1, 2, 3, ...')
CATEGORY_ID_TWICE = Kind('several categories have one id', 'Give each category an id of its own.')
CATEGORY_NAME = Kind('the name of a category is missing or no text', 'Write its name.')
CATEGORY_NAME_TWICE = Kind(
    'several categories have one name, so that they are one class with several labels', 'Merge them, or rename one.'
)
UNUSED_CATEGORY = Kind(
    'a category has no object',
    'Its class is not learned here, and has no AP; remove it if no split has any.',
    False,
)

ANNOTATION_ID = Kind('the id of an annotation is missing or not an integer', 'Number the annotations 1, 2, 3, ...')
ANNOTATION_ID_TWICE = Kind(
    'several annotations have one id, so that all but the last are lost', 'Number the annotations 1, 2, 3, ...'
)
ANNOTATION_ID_0 = Kind(
    'an annotation has the id 0, which pycocotools takes for no match: what finds this object counts as false',
    'Number the annotations from 1 on.',
    False,
)
ANNOTATION_IMAGE = Kind('image_id of an annotation is missing or not an integer', 'Write the id of one of the images.')
UNLISTED_IMAGE = Kind(
    'an annotation is of an image that is not listed, and is left out', 'List the image, or correct image_id.', False
)
ANNOTATION_CATEGORY = Kind(
    'category_id of an annotation is missing, not an integer, or the id of no category',
    'Write the id of one of the categories, or add the category.',
)
BOX = Kind(
    'bbox of an annotation is missing or not four finite numbers; expected [x, y, width, height] in pixels',
    'Correct the box, or remove the annotation.',
)
NEGATIVE_BOX = Kind(
    'the width or height of a box is negative; expected [x, y, width, height]',
    'Write the upper left corner first, or remove the annotation.',
)
FAR_BOX = Kind(
    'a box reaches far outside its image', 'Write boxes in pixels of the image that the annotation belongs to.'
)
EMPTY_BOX = Kind(
    'a box is less than a pixel wide or high, and its object is left out',
    'Write boxes in pixels, not as shares of the image; or remove the annotation.',
    False,
)
BOX_ELSEWHERE = Kind(
    'a box lies wholly outside its image, and its object is left out',
    'Correct the box or the size of the image.',
    False,
)
BOX_OUTSIDE = Kind(
    'a box reaches outside its image by more than a pixel, and is clipped to it',
    'Clip it, if the box is [x, y, width, height] and not [x1, y1, x2, y2].',
    False,
)
BOX_AND_MASK = Kind(
    f'the box of an object and its polygons lie in different places (an IoU below {LEAST_AGREEMENT})',
    'Write boxes as [x, y, width, height] and not as [x1, y1, x2, y2].',
    False,
)
AREA = Kind(
    'area of an annotation is missing or no finite number from 0 on',
    "Write the number of the mask's pixels, or width * height of the box.",
)
AREA_0 = Kind(
    'area of an annotation is 0, and its object is left out',
    "Write the number of the mask's pixels, or width * height of the box.",
    False,
)
AREA_TOO_LARGE = Kind(
    'area of an annotation is larger than its box, so that AP is of the wrong size (small, medium, large)',
    "Write the number of the mask's pixels, or width * height of the box.",
    False,
)
CROWD = Kind('iscrowd of an annotation is missing or neither 0 nor 1', 'Write 0 for an object, 1 for a group of them.')
CROWDS_ONLY = Kind(
    'an image has crowds and no objects, and is trained on as background',
    'Annotate objects, or remove the image.',
    False,
)


class _Missing:
    def __repr__(self) -> str:
        return 'missing'


_MISSING = _Missing()


@dataclass
class CocoFile:
    """What a check has found, and what its caller compares with other files and settings.

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
        findings.add(NOT_COCO, f'{" and ".join(wrong)} {"is" if len(wrong) == 1 else "are"} missing or no list')
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
        findings.add(UNREADABLE, got=f'{type(error).__name__}: {error}')
        return None
    if not isinstance(data, dict):
        findings.add(NOT_COCO, got=data)
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
            findings.add(NOT_AN_OBJECT, f'{name}[{index}]', entry)


def _value(entry: dict, key: str) -> str:
    return f'{key} {shortened(entry.get(key, _MISSING))}'


def _check_categories(entries: list, findings: Findings) -> dict[int, str]:
    """The names by their ids, of those that have both."""
    names, seen = {}, set()
    for index, category in _objects(entries, 'categories', findings):
        number, name = category.get('id'), category.get('name')
        place = f'category {number} (categories[{index}])'
        if not is_whole(number):
            findings.add(CATEGORY_ID, place, _value(category, 'id'))
            continue
        if number in names:
            findings.add(CATEGORY_ID_TWICE, place, f'{names[number]!r} and {name!r}')
        if not isinstance(name, str) or not name:
            findings.add(CATEGORY_NAME, place, _value(category, 'name'))
            name = ''
        elif name in seen:
            findings.add(CATEGORY_NAME_TWICE, place, _value(category, 'name'))
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
            findings.add(IMAGE_SIZE, place, f'{_value(image, "width")}, {_value(image, "height")}')
        elif width * height > _MOST_PIXELS:
            findings.add(IMAGE_TOO_LARGE, place, f'{width}x{height}')
        else:
            size = width, height
            if max(size) > _MOST_SLENDER * min(size):
                findings.add(IMAGE_TOO_SLENDER, place, f'{width}x{height}')
        if not isinstance(name, str) or not name:
            findings.add(FILE_NAME, place, _value(image, 'file_name'))
        elif name in files:
            findings.add(FILE_NAME_TWICE, place, name)
        else:
            files.add(name)
        if not is_whole(number):
            findings.add(IMAGE_ID, place, _value(image, 'id'))
            continue
        if number in sizes:
            findings.add(IMAGE_ID_TWICE, place, _value(image, 'file_name'))
        sizes[number] = size
    if not entries:
        findings.add(NO_IMAGES)
    return sizes


class _Annotations:
    """The pass over the annotations.

    Args:
        findings: Where faults go.
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
            self.findings.add(CROWDS_ONLY, f'image {image}')
        for category in sorted(self.categories.keys() - self.used):
            self.findings.add(UNUSED_CATEGORY, f'category {category}', repr(self.categories[category]))

    def _suspects(self, annotations: list[dict]) -> Sequence[int]:
        """Of some annotations those that may have a fault, to be looked at one by one; the others are done with here.

        That is what makes the check fast. What is faultless is decided for all at once; which fault the others have is
        only known by `_check_one`.
        """
        everyone = range(len(annotations))
        try:
            with np.errstate(all='ignore'):  # what is not finite is no number of a faultless annotation
                plain = self._plain(annotations)
        except (KeyError, TypeError):  # a key is missing, or a value cannot be in a set
            return everyone
        return everyone if plain is None else np.flatnonzero(~plain)

    def _plain(self, annotations: list[dict]) -> np.ndarray | None:
        """Which annotations are faultless; None where that cannot be decided for all at once."""
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
            self._add(ANNOTATION_ID, annotation, index, 'id')
        elif number in self.ids:
            self._add(ANNOTATION_ID_TWICE, annotation, index)
        elif number == 0:
            self._add(ANNOTATION_ID_0, annotation, index)
        if is_whole(number):
            self.ids.add(number)
        size = None
        if not is_whole(image):
            self._add(ANNOTATION_IMAGE, annotation, index, 'image_id')
        elif image not in self.sizes:
            self._add(UNLISTED_IMAGE, annotation, index)
        else:
            size = self.sizes[image]
        if not is_whole(category) or category not in self.categories:
            self._add(ANNOTATION_CATEGORY, annotation, index, 'category_id')
        else:
            self.used.add(category)
        if not isinstance(crowd, int) or crowd not in (0, 1):
            self._add(CROWD, annotation, index, 'iscrowd')
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
        """What the box covers, if it is one."""
        if type(box) is not list or len(box) != 4 or not are_numbers(box):
            self._add(BOX, annotation, index, 'bbox')
            return None
        left, top, width, height = box
        if width < 0 or height < 0:
            self._add(NEGATIVE_BOX, annotation, index, 'bbox')
            return None
        extent = left, top, left + width, top + height
        if size is None:
            return extent
        if is_far_outside(extent, size):
            self._add(FAR_BOX, annotation, index, 'bbox', got=f'the image is {size[0]}x{size[1]}')
            return None
        if width < 1 or height < 1:
            self._add(EMPTY_BOX, annotation, index, 'bbox')
        elif left >= size[0] or top >= size[1] or extent[2] <= 0 or extent[3] <= 0:
            self._add(BOX_ELSEWHERE, annotation, index, 'bbox')
        elif left < -1 or top < -1 or extent[2] > size[0] + 1 or extent[3] > size[1] + 1:
            self._add(BOX_OUTSIDE, annotation, index, 'bbox')
        return extent

    def _check_area(self, annotation: dict, index: int, extent: Extent | None) -> None:
        area = annotation.get('area')
        if not are_numbers((area,)) or area < 0:
            self._add(AREA, annotation, index, 'area')
        elif area == 0:
            self._add(AREA_0, annotation, index)
        elif extent is not None:
            width, height = extent[2] - extent[0], extent[3] - extent[1]
            if area > _AREA_AND_BOX * (width + 1) * (height + 1):
                self._add(AREA_TOO_LARGE, annotation, index, 'area', 'bbox')

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
            self._add(BOX_AND_MASK, annotation, index, got=f'they reach from x1, y1 to x2, y2: {places}')
