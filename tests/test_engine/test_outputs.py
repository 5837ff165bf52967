"""Names of results, and the folders for them."""

import pytest

from mmsparx.engine.outputs import check_empty, distinct_stems


def test_suffixes_distinguish_equal_stems():
    names = ['a.jpg', 'a.png', 'b.jpg', 'deep/a.jpg', 'x.1.png', 'x.2.png']
    assert distinct_stems(names) == {
        'a.jpg': 'a.jpg',
        'a.png': 'a.png',
        'b.jpg': 'b',
        'deep/a.jpg': 'deep/a',
        'x.1.png': 'x.1',
        'x.2.png': 'x.2',
    }


def test_a_name_with_its_suffix_may_be_the_stem_of_a_third():
    stems = distinct_stems(['a.jpg', 'a.png', 'a.jpg.bmp'])
    assert stems == {name: name for name in stems}


def test_a_folder_that_is_to_be_filled(tmp_path):
    """An existing folder must be empty; `force` overwrites its files."""
    for folder in (tmp_path, tmp_path / 'new', tmp_path / 'new/deep'):
        check_empty(folder)
        check_empty(folder, force=True)
    (tmp_path / 'hidden').mkdir()
    (tmp_path / 'hidden/.a').touch()
    (tmp_path / 'linked').symlink_to('hidden')
    for folder in (tmp_path, tmp_path / 'hidden', tmp_path / 'linked'):
        with pytest.raises(FileExistsError, match=f'{folder} is not empty; name another folder, .* with --force'):
            check_empty(folder)
        check_empty(folder, force=True)
    (tmp_path / 'dangling').symlink_to('nowhere')
    for file in (tmp_path / 'hidden/.a', tmp_path / 'dangling'):
        for force in (False, True):
            with pytest.raises(FileExistsError, match='is not a folder; name another one'):
                check_empty(file, force)
