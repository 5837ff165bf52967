"""Write label maps for semantic segmentation from an instance-segmentation set in COCO's format.

A picture's map is a PNG of its size and name: 0 where nothing is annotated, and 1, 2, ... for the categories in the
order of their ids. Where instances overlap, the later annotation is in front. Crowds are 255, which is ignored.
"""

import argparse
from pathlib import Path

import cv2
import numpy as np
from pycocotools.coco import COCO

IGNORED = 255


def write_label_maps(annotations: Path, folder: Path) -> int:
    """Write a map of each picture of an annotation file into a folder; returns how many.

    Raises:
        ValueError: more categories than a label map of 8 bits can tell apart.
        OSError: a map could not be written.
    """
    coco = COCO(str(annotations))
    labels = {category: i for i, category in enumerate(sorted(coco.getCatIds()), 1)}
    if len(labels) >= IGNORED:
        raise ValueError(f'{annotations}: expected at most {IGNORED - 1} categories, got {len(labels)}')
    for number, image in coco.imgs.items():
        label_map = np.zeros((image['height'], image['width']), np.uint8)
        for annotation in coco.imgToAnns[number]:
            label = IGNORED if annotation.get('iscrowd') else labels[annotation['category_id']]
            label_map[coco.annToMask(annotation).astype(bool)] = label
        path = folder / Path(image['file_name']).with_suffix('.png')
        path.parent.mkdir(parents=True, exist_ok=True)
        if not cv2.imwrite(str(path), label_map):
            raise OSError(f'{path} could not be written')
    return len(coco.imgs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('annotations', type=Path, help='annotation file, as instances_train2017.json')
    parser.add_argument('folder', type=Path, help='where to write the maps')
    args = parser.parse_args()
    try:
        count = write_label_maps(args.annotations, args.folder)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    print(f'{count} label maps are in {args.folder}')


if __name__ == '__main__':
    main()
