"""demo/infer.py on a folder, a picture and a video: results, what is passed over, and what is refused."""

import importlib.util
import json
import sys

import cv2
import numpy as np
import pytest

pytest.importorskip('mmdet', reason='a detector is what is shown')
from tool_helpers import CONFIG, ROOT

spec = importlib.util.spec_from_file_location('infer', ROOT / 'demo/infer.py')
infer = importlib.util.module_from_spec(spec)
spec.loader.exec_module(infer)


@pytest.fixture
def run(monkeypatch, tmp_path):
    def run(*arguments):
        monkeypatch.setattr(sys, 'argv', ['infer.py', *map(str, arguments), '--out-dir', str(tmp_path / 'found')])
        return infer.main()

    return run


def picture(path, height=48, width=80):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8))
    return path


def test_a_folder_a_picture_and_a_video(train, run, tmp_path, capsys):
    checkpoint = train(iters=1) / 'iter_1.pth'
    config = tmp_path / 'config.py'
    config.write_text(f'_base_ = {CONFIG!r}\nmodel = dict(test_cfg=dict(rcnn=dict(score_thr=0.001)))\n')
    network = (config, checkpoint, '--device', 'cpu', '--score-thr', 0)
    folder, found = tmp_path / 'pictures', tmp_path / 'found'
    for name in ('a.png', 'deep/b.JPG', 'c.png'):
        picture(folder / name)
    (folder / 'c.png').write_bytes(b'')
    (folder / 'd.jpg').write_bytes((folder / 'deep/b.JPG').read_bytes()[:200])
    (folder / 'notes.txt').touch()
    assert run(folder, *network) == 1
    assert '2 cannot be read and were passed over: c.png, d.jpg' in capsys.readouterr().out
    assert {p.relative_to(found).as_posix() for p in found.rglob('*.*')} == {
        'pictures/a.png', 'pictures/deep/b.JPG', 'predictions/a.json', 'predictions/deep/b.json',
    }  # fmt: skip
    result = json.loads((found / 'predictions/a.json').read_text())
    assert {'labels', 'scores', 'bboxes', 'masks', 'classes'} == result.keys()
    assert result['labels']
    assert {len(part) for part in result.values()} == {len(result['labels'])}
    given, drawn = (cv2.imread(str(path)) for path in (folder / 'a.png', found / 'pictures/a.png'))
    assert drawn.shape == given.shape
    assert not np.array_equal(drawn, given)
    # What is not drawn over has its colours: a detector that sees nothing changes nothing.
    assert run(folder / 'a.png', *network[:-1], 2) == 0
    np.testing.assert_array_equal(cv2.imread(str(found / 'pictures/a.png')), given)

    video = cv2.VideoWriter(str(tmp_path / 'v.avi'), cv2.VideoWriter_fourcc(*'MJPG'), 5, (80, 48))
    for _ in range(3):
        video.write(given)
    video.release()
    assert run(tmp_path / 'v.avi', *network, '--max-frames', 2) == 0
    assert [p.name for p in sorted((found / 'pictures/v').iterdir())] == ['000000.jpg', '000001.jpg']


@pytest.mark.parametrize(
    ('source', 'error', 'message'),
    [
        ('nothing.jpg', FileNotFoundError, r'no picture, folder or video .*nothing\.jpg'),
        ('empty', FileNotFoundError, r'no picture in .*empty; known kinds: \.jpg'),
        ('notes.txt', ValueError, 'is no picture .* and no video that OpenCV reads'),
        ('99', ValueError, 'camera 99 cannot be opened'),
    ],
)
def test_a_source_that_is_none(run, tmp_path, source, error, message):
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'notes.txt').write_text('no video')
    path = source if source.isdecimal() else tmp_path / source
    with pytest.raises(error, match=message):
        run(path, CONFIG, 'nothing.pth')


def test_a_config_of_no_library(run, tmp_path):
    (tmp_path / 'config.py').write_text("default_scope = 'mmpose'\n")
    with pytest.raises(ValueError, match="expected default_scope to be one of mmdet, mmseg, mmpretrain, got 'mmpose'"):
        run(picture(tmp_path / 'a.png'), tmp_path / 'config.py', 'nothing.pth')
