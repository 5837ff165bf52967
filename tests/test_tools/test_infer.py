"""`mmsparx infer` on a folder, an image and a video: results, files that are passed over, and refusals."""

import json

import cv2
import numpy as np
import pytest
import torch

pytest.importorskip('mmdet', reason='a detector is what is shown')
from helpers import randomise
from helpers.tools import CONFIG, ROOT, run_command
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.registry import MODELS, init_default_scope

from mmsparx.__main__ import main
from mmsparx.engine import inference


@pytest.fixture
def run(tmp_path):
    return lambda *arguments: run_command('infer', *arguments, '--out-dir', tmp_path / 'found')


def write_image(path, height=48, width=80):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8))
    return path


def test_a_folder_an_image_and_a_video(train, run, tmp_path, capsys):
    checkpoint = train(iters=1) / 'iter_1.pth'
    config = tmp_path / 'config.py'
    config.write_text(f'_base_ = {CONFIG!r}\nmodel = dict(test_cfg=dict(rcnn=dict(score_thr=0.001)))\n')
    network = (config, checkpoint, '--device', 'cpu', '--score-thr', 0)
    folder, found = tmp_path / 'images', tmp_path / 'found'
    for name in ('a.png', 'deep/b.JPG', 'c.png'):
        write_image(folder / name)
    (folder / 'c.png').write_bytes(b'')
    (folder / 'd.jpg').write_bytes((folder / 'deep/b.JPG').read_bytes()[:200])
    (folder / 'notes.txt').touch()
    assert run(folder, *network) == 1
    assert '2 cannot be read and were passed over: c.png, d.jpg' in capsys.readouterr().out
    assert {p.relative_to(found).as_posix() for p in found.rglob('*.*')} == {
        'images/a.png', 'images/deep/b.JPG', 'predictions/a.json', 'predictions/deep/b.json',
    }  # fmt: skip
    result = json.loads((found / 'predictions/a.json').read_text())
    assert {'labels', 'scores', 'bboxes', 'masks', 'classes'} == result.keys()
    assert result['labels']
    assert {len(part) for part in result.values()} == {len(result['labels'])}
    given, drawn = (cv2.imread(str(path)) for path in (folder / 'a.png', found / 'images/a.png'))
    assert drawn.shape == given.shape
    assert not np.array_equal(drawn, given)
    # Pixels without drawings keep their colours: a detector without detections changes nothing.
    assert run(folder / 'a.png', *network[:-1], 2) == 0
    np.testing.assert_array_equal(cv2.imread(str(found / 'images/a.png')), given)

    video = cv2.VideoWriter(str(tmp_path / 'v.avi'), cv2.VideoWriter_fourcc(*'MJPG'), 5, (80, 48))
    for _ in range(3):
        video.write(given)
    video.release()
    assert run(tmp_path / 'v.avi', *network, '--max-frames', 2) == 0
    assert [p.name for p in sorted((found / 'images/v').iterdir())] == ['000000.jpg', '000001.jpg']


@pytest.fixture
def make(tmp_path):
    """Config, checkpoint and a function of predictions without the script, of a small untrained network."""

    def run(name, classes, **meta):
        config, checkpoint = ROOT / 'configs' / name, tmp_path / 'weights.pth'
        cfg = Config.fromfile(config)
        init_default_scope(cfg.default_scope)
        # A runner builds the model like this.
        preprocessor = {'data_preprocessor': cfg.data_preprocessor} if 'data_preprocessor' in cfg else {}
        model = randomise(MODELS.build({**preprocessor, **cfg.model})).eval()
        meta = dict(dataset_meta=dict(classes=classes, **meta))
        torch.save(dict(state_dict=model.state_dict(), meta=meta), checkpoint)
        steps = [step for step in cfg.test_dataloader.dataset.pipeline if step.type != 'LoadAnnotations']

        def predict(path):
            init_default_scope(cfg.default_scope)
            with torch.no_grad():
                (sample,) = model.test_step(pseudo_collate([Compose(steps)({'img_path': str(path)})]))
            return sample

        return config, checkpoint, predict

    return run


@pytest.fixture
def folder(tmp_path):
    """Two images, and one that cannot be read."""
    rng = np.random.default_rng(0)
    for name in ('a.png', 'deep/b.png', 'c.png'):
        path = write_image(tmp_path / 'images' / name)
        low = rng.integers(0, 255, (3, 5, 3), dtype=np.uint8)
        cv2.imwrite(str(path), cv2.resize(low, (80, 48), interpolation=cv2.INTER_NEAREST))
    path.write_bytes(b'')
    return tmp_path / 'images'


def files(found):
    return {path.relative_to(found).as_posix() for path in found.rglob('*.*')}


def test_a_segmenter_on_a_folder(make, run, folder, tmp_path, capsys):
    datasets = pytest.importorskip('mmseg.datasets', reason='a segmenter is what is shown')
    meta = datasets.ADE20KDataset.METAINFO
    config, checkpoint, predict = make('segmentation/fpn_sparx_mini_overfit.py', **meta)
    assert run(folder, config, checkpoint, '--device', 'cpu') == 1
    assert '1 cannot be read and were passed over: c.png' in capsys.readouterr().out
    found, names = tmp_path / 'found', ('a', 'deep/b')
    kinds = {'images': 'png', 'labels': 'png', 'predictions': 'json'}
    assert files(found) == {f'{kind}/{name}.{suffix}' for name in names for kind, suffix in kinds.items()}
    for name in names:
        label_map = predict(folder / f'{name}.png').pred_sem_seg.data[0].numpy()
        labels, counts = np.unique(label_map, return_counts=True)
        assert len(labels) > 1
        assert np.array_equal(cv2.imread(str(found / f'labels/{name}.png'), cv2.IMREAD_UNCHANGED), label_map)
        shares = json.loads((found / f'predictions/{name}.json').read_text())['shares']
        expected = {meta['classes'][i]: count / (48 * 80) for i, count in zip(labels, counts, strict=True)}
        assert shares == pytest.approx(expected)
        given, drawn = (cv2.imread(str(path / f'{name}.png')) for path in (folder, found / 'images'))
        mixed = 0.5 * given + 0.5 * np.array(meta['palette'])[label_map][..., ::-1]
        assert np.median(np.abs(drawn - mixed)) <= 1  # here and there is the name of a class


def test_doubles_are_in_the_json_and_not_drawn(make, run, folder, tmp_path, monkeypatch):
    """The network is untrained, and its boxes overlap."""
    config, checkpoint, _ = make('detection/mask_rcnn_sparx_shapes.py', ('circle', 'triangle', 'square', 'star'))
    shown = []
    visualize = inference.without_doubles

    def watched(*arguments):
        shown.append(len(visualize(*arguments).pred_instances))
        return visualize(*arguments)

    monkeypatch.setattr(inference, 'without_doubles', watched)
    found, network = tmp_path / 'found', (config, checkpoint, '--device', 'cpu', '--score-thr', 0)
    results = {}
    for overlap in (0.1, 1):
        run(folder / 'a.png', *network, '--max-overlap', overlap)
        results[overlap] = (found / 'predictions/a.json').read_text(), (found / 'images/a.png').read_bytes()
    assert results[0.1][0] == results[1][0]
    assert results[0.1][1] != results[1][1]
    assert shown[0] < shown[1] == len(json.loads(results[1][0])['labels'])


@pytest.mark.parametrize('overlap', ['-0.1', '1.5'])
def test_an_overlap_out_of_range(run, overlap, capsys):
    with pytest.raises(SystemExit):
        run('a.png', CONFIG, 'nothing.pth', '--max-overlap', overlap)
    assert f'--max-overlap: expected an IoU from 0 to 1, got {overlap}' in capsys.readouterr().err


def test_a_classifier_on_a_folder(make, run, folder, tmp_path, capsys):
    pytest.importorskip('mmpretrain', reason='a classifier is what is shown')
    classes = [f'digit {i}' for i in range(10)]
    config, checkpoint, predict = make('classification/sparx_mamba_mini_digits.py', classes)
    assert run(folder, config.stem, checkpoint, '--device', 'cpu') == 1  # by the name of a shipped config
    assert '1 cannot be read and were passed over: c.png' in capsys.readouterr().out
    found, names = tmp_path / 'found', ('a', 'deep/b')
    kinds = {'images': 'png', 'predictions': 'json'}
    assert files(found) == {f'{kind}/{name}.{suffix}' for name in names for kind, suffix in kinds.items()}
    seen = []
    for name in names:
        scores = predict(folder / f'{name}.png').pred_score
        result = json.loads((found / f'predictions/{name}.json').read_text())
        np.testing.assert_allclose(result['pred_scores'], scores, rtol=1e-5)
        label = scores.argmax().item()
        assert (result['pred_label'], result['pred_class']) == (label, classes[label])
        assert result['pred_score'] == pytest.approx(scores.max().item(), rel=1e-5)
        given, drawn = (cv2.imread(str(path / f'{name}.png')) for path in (folder, found / 'images'))
        assert drawn.shape == (192, 320, 3)  # there is room for the text at the top
        enlarged = cv2.resize(given, (320, 192))
        assert np.array_equal(drawn[160:], enlarged[160:])
        assert not np.array_equal(drawn[:80], enlarged[:80])
        seen.append(scores)
    assert not torch.allclose(*seen)


@pytest.mark.parametrize(
    ('source', 'error', 'message'),
    [
        ('nothing.jpg', FileNotFoundError, r'no image, folder or video .*nothing\.jpg'),
        ('empty', FileNotFoundError, r'no image in .*empty; known kinds: \.jpg'),
        ('notes.txt', ValueError, 'is neither an image .*, nor a video that OpenCV reads'),
        ('99', ValueError, 'camera 99 cannot be opened'),
    ],
)
def test_a_missing_source(run, tmp_path, source, error, message):
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'notes.txt').write_text('no video')
    path = source if source.isdecimal() else tmp_path / source
    with pytest.raises(error, match=message):
        run(path, CONFIG, 'nothing.pth')


def test_classes_of_the_config_where_the_checkpoint_names_none(make, run, folder, tmp_path, capsys):
    """For plain weights mmseg would take the 19 classes of Cityscapes, mmdet those of COCO."""
    pytest.importorskip('mmseg')
    given, checkpoint, _ = make('segmentation/fpn_sparx_mini_overfit.py', ())
    weights = torch.load(checkpoint, weights_only=True)
    torch.save({'state_dict': weights['state_dict']}, checkpoint)
    config, names = tmp_path / 'own.py', tuple(f'thing {i}' for i in range(150))
    dataset = f'dict(dataset=dict(metainfo=dict(classes={names!r})))'
    config.write_text(f'_base_ = {str(given)!r}\ntest_dataloader = {dataset}\n')
    for source, expected in ((given, 'wall'), (config, 'thing 0')):
        assert run(folder, source, checkpoint, '--device', 'cpu') == 1  # 1 for the image that cannot be read
        classes = inference.of_dataset(Config.fromfile(source))['classes']
        assert classes[0] == expected
        for name in ('a', 'deep/b'):
            label_map = cv2.imread(str(tmp_path / f'found/labels/{name}.png'), cv2.IMREAD_UNCHANGED)
            shares = json.loads((tmp_path / f'found/predictions/{name}.json').read_text())['shares']
            assert shares.keys() == {classes[i] for i in np.unique(label_map)}

    config, checkpoint, _ = make('detection/mask_rcnn_sparx_mini_overfit.py', ())
    weights = torch.load(checkpoint, weights_only=True)
    torch.save({'state_dict': weights['state_dict']}, checkpoint)
    own = tmp_path / 'own.py'
    dataset = f'dict(dataset=dict(metainfo=dict(classes={names[:80]!r})))'
    model = 'dict(test_cfg=dict(rcnn=dict(score_thr=0.0)))'
    own.write_text(f'_base_ = {str(config)!r}\ntest_dataloader = {dataset}\nmodel = {model}\n')
    assert run(folder / 'a.png', own, checkpoint, '--device', 'cpu') == 0
    found = json.loads((tmp_path / 'found/predictions/a.json').read_text())
    assert found['classes'] == [f'thing {i}' for i in found['labels']]
    assert found['labels']


def test_images_that_opencv_cannot_resize_and_folders_called_images(make, run, folder, tmp_path, capsys):
    """They are passed over, and the others are processed; a single pixel is not an index."""
    pytest.importorskip('mmseg')
    (folder / 'folder.png').mkdir()
    (folder / 'c.png').unlink()
    cv2.imwrite(str(folder / 'line.png'), np.zeros((1, 10000, 3), np.uint8))
    cv2.imwrite(str(folder / 'pixel.png'), np.zeros((1, 1, 3), np.uint8))
    datasets = pytest.importorskip('mmseg.datasets')
    config, checkpoint, _ = make('segmentation/fpn_sparx_mini_overfit.py', **datasets.ADE20KDataset.METAINFO)
    assert run(folder, config, checkpoint, '--device', 'cpu') == 1
    out = capsys.readouterr().out
    assert '3 images done' in out
    assert '1 cannot be resized by OpenCV and were passed over: line.png' in out
    assert cv2.imread(str(tmp_path / 'found/images/pixel.png')).shape == (1, 1, 3)


def test_a_missing_device(run, folder, capsys):
    with pytest.raises(ValueError, match="--device: 'abacus' cannot be used: "):
        run(folder, CONFIG, 'nothing.pth', '--device', 'abacus')


@pytest.fixture
def shown(monkeypatch):
    """`shown(...)` runs the script with a network that paints everything black and scores the brightness."""

    def network(image, drawing):
        return np.zeros_like(image), {'mean': image.mean(), 'label_map': np.full(image.shape[:2], 7, np.uint8)}

    def run(*arguments):
        monkeypatch.setattr(inference, 'load_network', lambda *_, **__: network)
        return run_command('infer', *arguments)

    return run


def grey(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((8, 8, 3), value, np.uint8))
    return path


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob('*') if path.is_file()}


@pytest.mark.parametrize('kind', ['images', 'labels', 'predictions'])
@pytest.mark.parametrize(
    ('source', 'out'),
    [
        ('{kind}', '.'),
        ('{kind}/a.png', '.'),
        ('{kind}', '{kind}'),
        ('{kind}', '{kind}/found'),
        ('{kind}/deep', '.'),
        ('.', 'found'),
        ('{kind}', 'link'),
    ],
)
def test_inputs_are_neither_written_over_nor_joined(shown, tmp_path, monkeypatch, kind, source, out):
    grey(tmp_path / kind / 'a.png', 50)
    grey(tmp_path / kind / 'deep/b.png', 90)
    (tmp_path / 'link').symlink_to('.')
    monkeypatch.chdir(tmp_path)
    before = contents(tmp_path)
    with pytest.raises(ValueError, match=r'--out-dir: .* lies in .* Name another folder'):
        shown(source.format(kind=kind), 'config', 'checkpoint', '--out-dir', out.format(kind=kind))
    assert contents(tmp_path) == before


def test_files_that_are_no_results_are_not_written_over(shown, tmp_path):
    """They are other files of the user, and links to inputs."""
    source = grey(tmp_path / 'source/a.png', 50).parent
    other = grey(tmp_path / 'home/images/a.png', 90)
    linked = tmp_path / 'linked/images/a.png'
    linked.parent.mkdir(parents=True)
    linked.symlink_to(source / 'a.png')
    labels = grey(tmp_path / 'maps/labels/a.png', 90)
    before = contents(tmp_path)
    for file in (other, linked, labels):
        with pytest.raises(FileExistsError, match=rf'{file} exists already, and is not a result of this command'):
            shown(source, 'config', 'checkpoint', '--out-dir', file.parents[1])
    assert contents(tmp_path) == before
    for _ in range(2):  # its own results are
        assert shown(source, 'config', 'checkpoint', '--out-dir', tmp_path / 'found') == 0


def test_no_two_results_have_the_same_name(shown, tmp_path):
    values = {'a.jpg': 10, 'a.png': 20, 'a.bmp': 30, 'a.jpg.png': 40, 'b.png': 50, 'deep/a.png': 60}
    for name, value in values.items():
        grey(tmp_path / 'given' / name, value)
    assert shown(tmp_path / 'given', 'config', 'checkpoint', '--out-dir', tmp_path / 'found') == 0
    stems = {name: name for name in values} | {'b.png': 'b', 'deep/a.png': 'deep/a'}
    expected = {f'predictions/{stem}.json' for stem in stems.values()} | {f'images/{name}' for name in values}
    assert files(tmp_path / 'found') == expected | {f'labels/{stem}.png' for stem in stems.values()}
    for name, value in values.items():
        result = json.loads((tmp_path / f'found/predictions/{stems[name]}.json').read_text())
        assert result == {'mean': pytest.approx(value, abs=2)}


class TestCtrlC:
    """Ctrl-C comes while a network processes the second image."""

    @pytest.fixture
    def interrupted(self, monkeypatch, tmp_path):
        seen = []

        def network(image, drawing):
            seen.append(image)
            if len(seen) == 2:
                raise KeyboardInterrupt
            return image, {}

        monkeypatch.setattr(inference, 'load_network', lambda *_, **__: network)
        return lambda source: main(['infer', str(source), 'config', 'checkpoint', '--out-dir', str(tmp_path / 'found')])

    def test_a_folder_keeps_its_results(self, interrupted, tmp_path, capsys):
        for name in 'ab':
            grey(tmp_path / 'given' / f'{name}.png', 50)
        assert interrupted(tmp_path / 'given') == 130
        said = capsys.readouterr()
        assert f'1 images done, results in {tmp_path}/found' in said.out
        assert said.err == 'interrupted\n'
        assert files(tmp_path / 'found') == {'images/a.png', 'predictions/a.json'}

    def test_a_camera_ends_in_no_other_way(self, interrupted, monkeypatch, capsys):
        frames = ((f'{i}.jpg', np.zeros((8, 8, 3), np.uint8)) for i in range(5))
        monkeypatch.setattr(inference, 'open_source', lambda source: inference.Source(frames, None))
        assert interrupted('0') == 0
        assert '1 images done' in capsys.readouterr().out


def test_a_folder_of_results_that_cannot_be_written_to(shown, tmp_path):
    source = grey(tmp_path / 'source/a.png', 50)
    (tmp_path / 'file').touch()
    with pytest.raises(OSError, match='--out-dir cannot be written to; make room there, or name another place'):
        shown(source, 'config', 'checkpoint', '--out-dir', tmp_path / 'file/found')


@pytest.mark.parametrize('count', ['0', '-1'])
def test_fewer_frames_than_one(shown, tmp_path, capsys, count):
    with pytest.raises(SystemExit):
        shown(grey(tmp_path / 'a.png', 50), 'config', 'checkpoint', '--max-frames', count)
    assert f'--max-frames: expected at least 1, got {count}' in capsys.readouterr().err


def test_a_folder_whose_name_is_a_number(shown, tmp_path, monkeypatch):
    grey(tmp_path / '2024/a.png', 50)
    monkeypatch.chdir(tmp_path)
    assert shown('2024', 'config', 'checkpoint') == 0
    assert (tmp_path / 'found/images/a.png').is_file()


def test_a_config_of_no_library(run, tmp_path):
    (tmp_path / 'config.py').write_text("default_scope = 'mmpose'\n")
    with pytest.raises(ValueError, match="expected default_scope to be one of mmdet, mmseg, mmpretrain, got 'mmpose'"):
        run(write_image(tmp_path / 'a.png'), tmp_path / 'config.py', 'nothing.pth')


def test_an_unknown_config(run, tmp_path):
    with pytest.raises(ValueError, match=r'no config file .*fpn_sparx_t_80k'):
        run(write_image(tmp_path / 'a.png'), 'fpn_sparx_t_8k', 'nothing.pth')
