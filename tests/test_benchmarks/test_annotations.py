"""The benchmark of the annotation check: its files have no faults, and its table has their figures."""

import pytest

pytest.importorskip('mmengine')
from benchmarks import annotations
from mmsparx.annotations.coco import check_coco


@pytest.mark.parametrize('encoded', [False, True])
def test_the_file_is_clean(tmp_path, encoded):
    pytest.importorskip('pycocotools')
    path = tmp_path / 'annotations.json'
    annotations.write_clean_file(path, images=100, objects=3, points=8, encoded=encoded)
    file = check_coco(path)
    assert len(file.image_ids) == 100
    assert not file.findings.text(is_error=True) + file.findings.text(is_error=False)


def test_the_table(capsys):
    rows = annotations.main(['--images', '200', '--objects', '2', '1', '--times', '1'])
    assert [(row['images'], row['objects of each']) for row in rows] == [(200, 2), (200, 1)]
    assert 'check (s)' in capsys.readouterr().out


def test_a_file_that_is_not_clean_is_not_measured(tmp_path):
    path = tmp_path / 'annotations.json'
    path.write_text('{}')
    with pytest.raises(RuntimeError, match='not clean'):
        annotations.measure(path, 1)
