"""`mmsparx check-data`."""

import subprocess
import sys

import numpy as np
import pytest
from helpers.annotations import NAN, clean, write

from mmsparx.__main__ import main
from mmsparx.annotations import coco_faults, folders, label_maps, masks


def test_files_and_folders(tmp_path, capsys):
    good = write(tmp_path, clean(), 'good.json')
    data = clean()
    data['annotations'][0]['bbox'] = [0, 0, NAN, 1]
    data['annotations'][1]['area'] = 0
    bad = write(tmp_path, data, 'bad.json')
    (tmp_path / 'classes' / 'cat').mkdir(parents=True)
    assert main(['check-data', str(good)]) == 0
    assert capsys.readouterr().out == f'{good}: no fault\n'
    assert main(['check-data', str(good), str(bad), str(tmp_path / 'classes')]) == 1
    out = capsys.readouterr().out
    assert out.startswith(f'{good}: no fault\nerrors:\n{bad}: {coco_faults.BOX.text} (1 time)\n')
    assert f'warnings:\n{bad}: {coco_faults.AREA_0.text}' in out
    assert folders.EMPTY.text in out


def test_without_masks(tmp_path, capsys):
    data = clean()
    data['annotations'][0]['segmentation'] = [[1, 2]]
    path = str(write(tmp_path, data))
    assert main(['check-data', path]) == 1
    assert main(['check-data', '--no-masks', path]) == 0
    assert f'warnings:\n{path}: {masks.FEW_POINTS.text}' in capsys.readouterr().out


def test_a_missing_file_is_one_line(tmp_path, capsys):
    assert main(['check-data', str(tmp_path / 'nothing.json'), str(write(tmp_path, clean()))]) == 1
    caught = capsys.readouterr()
    assert caught.err.startswith('mmsparx: ')
    assert 'nothing.json' in caught.err
    assert 'no fault' in caught.out


def test_numpy_is_imported_by_the_check_alone():
    code = 'import sys, mmsparx.__main__; sys.exit("numpy" in sys.modules)'
    assert subprocess.run([sys.executable, '-c', code]).returncode == 0


class TestLabelMaps:
    """Label maps of three classes, in PNG files."""

    @pytest.fixture
    def check(self, tmp_path, capsys):
        """`check({name: label map or bytes}, *options)`: exit status and output."""
        image = pytest.importorskip('PIL.Image', reason='it reads label maps')

        def check(files, *options):
            for name, labels in files.items():
                path = tmp_path / 'maps' / name
                path.parent.mkdir(parents=True, exist_ok=True)
                if isinstance(labels, bytes):
                    path.write_bytes(labels)
                else:
                    image.fromarray(np.array(labels, np.uint8)).save(path)
            status = main(['check-data', str(tmp_path / 'maps'), '--label-maps', '3', *options])
            return status, capsys.readouterr().out

        return check

    def test_maps_that_fit(self, check, tmp_path):
        assert check({'a.png': [[0, 1], [2, 255]], 'deep/b.png': [[0, 0]]}) == (0, f'{tmp_path}/maps: no fault\n')

    def test_the_first_class_is_1(self, check, tmp_path):
        files = {'a.png': [[0, 1], [2, 3]], 'b.png': [[255, 1]]}
        assert check(files, '--reduce-zero-label') == (0, f'{tmp_path}/maps: no fault\n')
        status, out = check(files)
        assert status == 1
        assert f'{label_maps.NO_CLASS.text} (1 time)\n    a.png: [3]; expected 0 to 2, or 255\n' in out

    def test_faults(self, check):
        files = {'a.png': [[0, 9], [4, 0]], 'none.png': [[255]], 'colours.png': np.zeros((2, 2, 3)), 'cut.png': b'PNG'}
        status, out = check(files)
        assert status == 1
        assert 'a.png: [4, 9]; expected 0 to 2, or 255' in out
        assert f'{label_maps.CHANNELS.text} (1 time)\n    colours.png\n' in out
        assert f'{label_maps.UNREADABLE.text} (1 time)\n    cut.png: ' in out
        warnings = out.partition('warnings:\n')[2]
        assert f'{label_maps.NOTHING.text} (1 time)\n    none.png\n' in warnings
        assert f'{label_maps.NEVER.text} (2 times)\n    label 1\n    label 2\n' in warnings

    def test_an_empty_folder(self, check, tmp_path):
        (tmp_path / 'maps').mkdir()
        assert check({})[0] == 1
