"""Images of a folder: the choice of images, and files that cannot be read."""

import os
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from mmsparx.cli.images import choose_images, find_images, passed_over, read_image
from mmsparx.cli.progress import shown


@pytest.fixture
def folder(tmp_path):
    """Six images whose red channel is their number, two of them in a subfolder."""
    for i in range(6):
        path = tmp_path / ('deep' if i > 3 else '.') / f'{i}.PNG'
        path.parent.mkdir(exist_ok=True)
        Image.new('RGB', (8, 6), (i, 0, 0)).save(path)
    (tmp_path / 'notes.txt').write_text('no image')
    return tmp_path


def numbers(images):
    return [int(path.stem) for path in images.paths]


def test_all_of_a_folder(folder):
    images = choose_images(folder)
    assert numbers(images) == [0, 1, 2, 3, 4, 5]
    assert images.report is None


def test_a_choice_is_of_the_seed(folder):
    first, again, other = (numbers(choose_images(folder, 3, seed)) for seed in (0, 0, 1))
    assert first == again
    assert first != other
    assert len(set(first)) == 3
    assert numbers(choose_images(folder, 9)) == [0, 1, 2, 3, 4, 5]


def test_unreadable_files_are_passed_over_and_named(folder):
    (folder / '1.PNG').write_bytes(b'')
    data = (folder / 'deep/4.PNG').read_bytes()
    (folder / 'deep/4.PNG').write_bytes(data[: len(data) // 2])
    images = choose_images(folder)
    assert numbers(images) == [0, 2, 3, 5]
    assert images.report == '2 images cannot be read and were passed over: 1.PNG, deep/4.PNG'
    assert len(choose_images(folder, 4).paths) == 4  # others take their places


def test_batches(folder):
    def prepare(image):
        return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)

    batches = list(choose_images(folder).batches(prepare, 4, 'images'))
    assert [tuple(batch.shape) for batch in batches] == [(4, 3, 6, 8), (2, 3, 6, 8)]
    assert torch.cat(batches)[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4, 5]


def test_every_kind_of_image_is_rgb_and_upright(tmp_path):
    for mode in ('L', 'RGBA', 'P', 'I;16', 'CMYK'):
        path = tmp_path / f'image.{"tif" if mode in ("I;16", "CMYK") else "png"}'
        Image.new(mode, (8, 6)).save(path)
        assert (read_image(path).mode, read_image(path).size) == ('RGB', (8, 6))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was rotated by 90 degrees
    Image.new('RGB', (8, 6)).save(tmp_path / 'turned.jpg', exif=exif)
    assert read_image(tmp_path / 'turned.jpg').size == (6, 8)


@pytest.mark.parametrize('suffix', ['png', 'tif'])
def test_the_upper_8_bits_of_16_are_kept_as_by_opencv(suffix, tmp_path):
    values = np.random.default_rng(0).integers(0, 1 << 16, (6, 8), dtype=np.uint16)
    path = tmp_path / f'image.{suffix}'
    Image.fromarray(values).save(path)
    found = np.asarray(read_image(path))
    assert np.array_equal(found, np.repeat(values[..., None] >> 8, 3, axis=2))
    cv2 = pytest.importorskip('cv2')
    assert np.abs(found.astype(int) - cv2.imread(str(path), cv2.IMREAD_COLOR)).max() <= 1  # OpenCV may round


@pytest.mark.parametrize(
    ('count', 'text'),
    [
        (1, '1 image cannot be read and was passed over: a0'),
        (7, '7 images cannot be read and were passed over: a0, a1, a2, a3, a4 and 2 more'),
    ],
)
def test_files_passed_over_are_counted(count, text):
    assert passed_over([f'a{i}' for i in range(count)]) == text


def test_folders_without_images(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'no folder .*none to read images from'):
        find_images(tmp_path / 'none')
    with pytest.raises(FileNotFoundError, match=r'no image in .*; known kinds: \.jpg'):
        choose_images(tmp_path)
    (tmp_path / 'empty.png').touch()
    with pytest.raises(ValueError, match=r'none of its 1 images can be read, such as .*empty\.png'):
        choose_images(tmp_path)


def test_a_progress_bar_is_for_terminals_alone(monkeypatch, capsys):
    assert list(shown([1, 2], 'images')) == [1, 2]
    assert capsys.readouterr() == ('', '')
    leader, follower = os.openpty()
    with os.fdopen(follower, 'w') as terminal:
        monkeypatch.setattr(sys, 'stderr', terminal)
        monkeypatch.setenv('TERM', 'xterm')
        assert list(shown([1, 2], 'images')) == [1, 2]
        terminal.flush()
        assert b'images' in os.read(leader, 10000)
    os.close(leader)
    assert capsys.readouterr().out == ''
