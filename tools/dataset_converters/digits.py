"""Write scikit-learn's handwritten digits as images in ImageNet's layout, for a smoke test of classification.

Every fifth of the 1797 images goes to `val/<digit>/`, the others to `train/<digit>/`. Nothing is downloaded:
scikit-learn has them. Files are only written to a folder with files if --force is given.
"""

import argparse
from pathlib import Path

import cv2
from sklearn.datasets import load_digits

from mmsparx.engine.outputs import check_empty, check_writable


def write_digits(folder: Path) -> int:
    """Write 8x8 images of 8 bits, `{train,val}/<digit>/<number>.png`; returns how many."""
    digits = load_digits()
    images = (digits.images * (255 / digits.images.max())).astype('uint8')
    for i, (image, digit) in enumerate(zip(images, digits.target, strict=True)):
        path = folder / ('train' if i % 5 else 'val') / str(digit) / f'{i:04}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        if not cv2.imwrite(str(path), image):
            raise OSError(f'{path} could not be written')
    return len(images)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument('folder', type=Path, nargs='?', default='data/digits', help='folder to write to (%(default)s)')
    parser.add_argument('--force', action='store_true', help='overwrite existing files')
    args = parser.parse_args()
    try:
        check_empty(args.folder, args.force)
        check_writable(args.folder, 'the folder of the digits')
        count = write_digits(args.folder)
    except OSError as error:
        parser.error(str(error))
    print(f'{count} images are in {args.folder}')


if __name__ == '__main__':
    main()
