"""Write label maps for semantic segmentation from an instance-segmentation set in COCO's format.

An image's map is a PNG with its size and name: 0 where nothing is annotated, and 1, 2, ... for the categories in the
order of their ids. Where instances overlap, the later annotation is in front. Crowds are 255, which is ignored.
Existing files are not overwritten, unless --force is given.
"""

import argparse
import os
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
from pycocotools.coco import COCO

from mmsparx.engine.outputs import check_writable

IGNORED = 255


def target_files(file_names: Iterable[str], folder: Path, force: bool) -> dict[str, Path]:
    """The label map of each image.

    Args:
        file_names: Names of the images, as annotations have them.
        folder: Folder of the maps.
        force: True to overwrite existing files.

    Raises:
        ValueError: Two maps would have the same name, or a map would be outside the folder.
        FileExistsError: A file exists already.
    """
    targets, taken = {}, {}
    for name in file_names:
        path = folder / Path(name).with_suffix('.png')
        if not path.resolve().is_relative_to(folder.resolve()):
            raise ValueError(f'the label map of {name} would be {path}, outside {folder}: expected relative names')
        if (other := taken.setdefault(os.path.normpath(path), name)) != name:
            raise ValueError(
                f'the label maps of {other} and {name} would have the same name, {path}. Rename one of the two'
            )
        if path.exists() and not force:
            raise FileExistsError(f'{path} exists already; name another folder, or overwrite it with --force')
        targets[name] = path
    return targets


def write_label_maps(annotations: Path, folder: Path, force: bool = False) -> int:
    """Write a map of each image of an annotation file into a folder; returns how many.

    Raises:
        ValueError: more categories than an 8-bit label map can represent; or see `target_files`.
        FileExistsError: a file exists already, and `force` was not given.
        OSError: a map could not be written.
    """
    coco = COCO(str(annotations))
    labels = {category: i for i, category in enumerate(sorted(coco.getCatIds()), 1)}
    if len(labels) >= IGNORED:
        raise ValueError(f'{annotations}: expected at most {IGNORED - 1} categories, got {len(labels)}')
    targets = target_files((image['file_name'] for image in coco.imgs.values()), folder, force)
    check_writable(folder, 'the folder of the maps')
    for number, image in coco.imgs.items():
        label_map = np.zeros((image['height'], image['width']), np.uint8)
        for annotation in coco.imgToAnns[number]:
            label = IGNORED if annotation.get('iscrowd') else labels[annotation['category_id']]
            label_map[coco.annToMask(annotation).astype(bool)] = label
        path = targets[image['file_name']]
        path.parent.mkdir(parents=True, exist_ok=True)
        if not cv2.imwrite(str(path), label_map):
            raise OSError(f'{path} could not be written')
    return len(coco.imgs)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument('annotations', type=Path, help='annotation file, as instances_train2017.json')
    parser.add_argument('folder', type=Path, help='folder of the maps')
    parser.add_argument('--force', action='store_true', help='overwrite existing files')
    args = parser.parse_args()
    try:
        count = write_label_maps(args.annotations, args.folder, args.force)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    print(f'{count} label maps are in {args.folder}')


if __name__ == '__main__':
    main()
