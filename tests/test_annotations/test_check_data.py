"""`mmsparx check-data`."""

import subprocess
import sys

from helpers.annotations import NAN, clean, write

from mmsparx.__main__ import main
from mmsparx.annotations import coco_faults, folders, masks


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
