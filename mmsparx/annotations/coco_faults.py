"""The kinds of faults of an annotation file in COCO's format, each with what to do about it; see `coco`."""

from mmsparx.annotations.findings import Kind
from mmsparx.annotations.numbers import LEAST_AGREEMENT

# OpenCV reads no image of more pixels.
MOST_PIXELS = 2**30
# A longer side of 1333 leaves 7 pixels of the shorter one; a little more, and cv2.resize refuses the image.
MOST_SLENDER = 200

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
    f'an image has more than {MOST_PIXELS} pixels, and OpenCV reads none of that size', 'Correct its size, or tile it.'
)
IMAGE_TOO_SLENDER = Kind(
    f'an image is more than {MOST_SLENDER} times as long as it is wide; resized, nothing of its shorter side would be '
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
