"""demo/app.py: results of its functions for an image, and the page in a browser."""

import argparse
import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip('gradio', minversion='6', reason='the page is made with it')
pytest.importorskip('mmpretrain', reason='the classifier is one of it')
pytest.importorskip('pytorch_grad_cam', reason='heat maps are made with it')
pytest.importorskip('pycocotools', reason='the examples are drawn with it')
import gradio as gr
from helpers import randomise
from helpers.tools import ROOT

from mmsparx.cli.models import load_model

DIGITS, DETECTOR = 'sparx_mamba_mini_digits', 'mask_rcnn_sparx_mini_overfit'
LIMIT = 1  # megapixels


@pytest.fixture(scope='module')
def app():
    """The page's module; the shapes that it imports are beside it."""
    spec = importlib.util.spec_from_file_location('app', ROOT / 'demo/app.py')
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, 'app', module)  # dataclasses look up their module
        spec.loader.exec_module(module)
        yield module


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    """`checkpoint(config, count)`: a checkpoint of random weights, which names `count` classes."""
    folder = tmp_path_factory.mktemp('checkpoints')

    def save(config, count):
        path = folder / f'{config}.pth'
        classes = [f'kind {i}' for i in range(count)]
        if not path.exists():
            module = randomise(load_model(config, device='cpu').module)
            torch.save({'state_dict': module.state_dict(), 'meta': {'dataset_meta': {'classes': classes}}}, path)
        return str(path)

    return save


@pytest.fixture(scope='module')
def image(tmp_path_factory):
    path = tmp_path_factory.mktemp('images') / 'image.png'
    low = np.random.default_rng(0).integers(0, 255, (3, 4, 3), dtype=np.uint8)
    cv2.imwrite(str(path), cv2.resize(low, (80, 60), interpolation=cv2.INTER_NEAREST))
    return path


class TestResults:
    def test_of_a_classifier(self, app, checkpoint, image):
        loaded = app.load(DIGITS, checkpoint(DIGITS, 10))
        assert not loaded.detects
        assert app.load(DIGITS, checkpoint(DIGITS, 10)) is loaded
        drawn, overlay, classes, text = app.predict(loaded, str(image), 0.3, True, LIMIT)
        assert drawn.shape == (240, 320, 3)
        assert overlay.shape == (32, 32, 3)
        assert list(classes) == [f'kind {i}' for i in range(10)]
        assert sum(classes.values()) == pytest.approx(1, abs=1e-5)
        best = max(classes, key=classes.get)
        assert f'evidence for {best} (probability {classes[best]:.2g})' in text
        assert 's for the image' in text
        assert 'selective scan: ' in text
        assert app.predict(loaded, str(image), 0.3, False, LIMIT)[1] is None

    def test_of_a_detector(self, app, checkpoint, image, tmp_path):
        pytest.importorskip('mmdet', reason='the detector is one of it')
        count = load_model(DETECTOR, device='cpu').module.roi_head.bbox_head.num_classes
        config = tmp_path / 'config.py'
        base = ROOT / f'configs/detection/{DETECTOR}.py'
        config.write_text(f'_base_ = {str(base)!r}\nmodel = dict(test_cfg=dict(rcnn=dict(score_thr=0.0)))\n')
        loaded = app.load(str(config), checkpoint(DETECTOR, count))
        assert loaded.detects
        given = cv2.imread(str(image))[..., ::-1]
        drawn, overlay, classes, text = app.predict(loaded, str(image), 0.0, True, LIMIT)
        assert drawn.shape == given.shape
        assert not np.array_equal(drawn, given)
        assert set(classes) <= {f'kind {i}' for i in range(count)}
        threshold = sorted(classes.values())[-1]
        assert 0 < threshold < 1
        assert f'evidence for {max(classes, key=classes.get)} (' in text
        assert overlay.std() > 0
        # No box scores higher than the best one.
        drawn, overlay, classes, text = app.predict(loaded, str(image), threshold, True, LIMIT)
        assert np.array_equal(drawn, given)
        assert (overlay, classes) == (None, {})
        assert 'No heat map, since nothing scores higher' in text
        # A network of another library can follow.
        loaded = app.load(DIGITS, checkpoint(DIGITS, 10))
        assert len(app.predict(loaded, str(image), 0.3, False, LIMIT)[2]) == 10

    def test_shares_of_a_segmentation(self, app):
        assert app.by_class({'shares': {'wall': 0.75, 'sky': 0.25}}, None, 0.3) == {'wall': 0.75, 'sky': 0.25}

    def test_the_best_score_of_each_class(self, app):
        result = {'scores': [0.2, 0.9, 0.5, 0.4], 'classes': ['a', 'a', 'a', 'b']}
        assert app.by_class(result, None, 0.3) == {'b': 0.4, 'a': 0.9}


class TestMessages:
    @pytest.fixture
    def refused(self, app):
        """`refused(function, *arguments)`: the page's message for an error of the function."""

        def message(function, *arguments):
            with pytest.raises(gr.Error) as raised, app.faults_on_the_page():
                function(*arguments)
            assert not raised.value.print_exception
            return raised.value.message

        return message

    def test_of_uploads(self, app, refused, image, tmp_path):
        files = {name: tmp_path / name for name in ('text.png', 'empty.png', 'cut.png', 'large.png')}
        files['text.png'].write_text('no image')
        files['empty.png'].touch()
        files['cut.png'].write_bytes(image.read_bytes()[:50])  # its size can be read
        Image.new('1', (4000, 300)).save(files['large.png'])
        said = {name: refused(app.read, str(path), LIMIT) for name, path in files.items()}
        assert app.read(str(files['large.png']), 2).shape == (154, 2048, 3)
        assert refused(app.read, None, LIMIT) == 'Choose an image first.'
        assert said['text.png'].startswith('This file is not an image, or damaged.')
        assert said['empty.png'].startswith('This file is not an image, or damaged.')
        assert said['cut.png'].startswith('The image cannot be read: the file is damaged')
        assert 'expected at most 1 megapixels, got 4000x300 pixels' in said['large.png']

    def test_of_an_image_that_cannot_be_resized(self, app, refused, image, tmp_path):
        Image.new('RGB', (10000, 1)).save(tmp_path / 'line.png')
        assert 'it is too narrow' in refused(app.read, str(tmp_path / 'line.png'), LIMIT)

        def resize(*_):
            raise cv2.error('(-215:Assertion failed) inv_scale_x > 0')

        loaded = app.Loaded('', '', resize, False, None)
        assert 'it is too narrow' in refused(app.predict, loaded, str(image), 0.3, False, LIMIT)

    def test_of_weights(self, app, refused, checkpoint, tmp_path):
        (tmp_path / 'text.pth').write_text('<b>no weights</b>')
        said = refused(app.load, DIGITS, str(tmp_path / 'text.pth'))
        assert 'it is a text file that begins with &#x27;&lt;b&gt;no weights' in said
        assert 'head.fc.weight' in refused(app.load, 'sparx_mamba_mini_overfit', checkpoint(DIGITS, 10))
        assert 'no config' in refused(app.load, 'sparx_mamba_huge', checkpoint(DIGITS, 10))
        assert 'no file' in refused(app.load, None, None, str(tmp_path / 'network.onnx'))
        assert 'expected CONFIG and CHECKPOINT' in refused(app.load, None, None)

    def test_bugs_are_raised(self, app):
        with pytest.raises(ZeroDivisionError), app.faults_on_the_page():
            divmod(1, 0)


class TestWhoChoosesTheNetwork:
    def options(self, **others):
        defaults = dict(config=None, checkpoint=None, model=None, examples=None, max_megapixels=LIMIT, port=None)
        return argparse.Namespace(**{**defaults, 'allow_weights': False, 'host': '127.0.0.1', **others})

    def test_visitors_name_no_files(self, app, checkpoint, image):
        given = {'config': DIGITS, 'checkpoint': checkpoint(DIGITS, 10), 'examples': image.parent}
        page = app.build(self.options(**given))
        kinds = [block.get_block_name() for function in page.fns.values() for block in function.inputs]
        assert kinds
        assert set(kinds) <= {'image', 'slider', 'checkbox', 'dataset'}
        page = app.build(self.options(allow_weights=True, **given))
        kinds = {block.get_block_name() for function in page.fns.values() for block in function.inputs}
        assert {'dropdown', 'textbox'} < kinds

    def test_fields_for_files_are_served_to_this_machine(self, app):
        with pytest.raises(SystemExit, match=r'--allow-weights: expected --host to be one of .*, got 0\.0\.0\.0'):
            app.run(self.options(allow_weights=True, host='0.0.0.0'))


@pytest.fixture
def browser():
    """Debian's chromium without a window, which only reaches this machine."""
    webdriver = pytest.importorskip('selenium.webdriver', reason='the browser is driven by it')
    driver, chromium = shutil.which('chromedriver'), shutil.which('chromium') or shutil.which('google-chrome')
    if not (driver and chromium):
        pytest.skip('needs a browser and its driver: apt-get install chromium chromium-driver')
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for option in ('headless=new', 'no-sandbox', 'disable-gpu', 'disable-dev-shm-usage', 'window-size=1280,900'):
        options.add_argument(f'--{option}')
    options.add_argument('--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1')
    with webdriver.Chrome(options=options, service=webdriver.ChromeService(driver)) as browser:
        yield browser


@pytest.fixture
def address(checkpoint, tmp_path):
    """The page of a classifier, started as a process."""
    with socket.create_server(('127.0.0.1', 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, ROOT / 'demo/app.py', DIGITS, checkpoint(DIGITS, 10), '--port', str(port)]
    environment = {**os.environ, 'OMP_NUM_THREADS': '1', 'GRADIO_TEMP_DIR': str(tmp_path)}
    log = (tmp_path / 'log.txt').open('w+')
    with log, subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT) as process:
        try:
            yield wait_for(f'http://127.0.0.1:{port}/', process, log)
        finally:
            process.terminate()


def wait_for(address, process, log):
    """The address, once it is served."""
    for _ in range(600):
        try:
            urllib.request.urlopen(address, timeout=10).close()
        except urllib.error.URLError:
            log.seek(0)
            assert process.poll() is None, log.read()
            time.sleep(0.2)
        else:
            return address
    raise TimeoutError(f'{address} is not served')


def test_in_a_browser(browser, address, image, tmp_path):
    from selenium.webdriver.support.ui import WebDriverWait

    def until(script):
        return WebDriverWait(browser, 60).until(lambda page: page.execute_script(f'return {script}'))

    upload = 'document.querySelector("input[type=file]")'
    results = '[...document.querySelectorAll("img")].filter(x => x.src.endsWith("image.webp") && x.naturalWidth)'
    browser.get(address)
    until('document.title == "mmsparx"')
    until(upload).send_keys(str(image))
    assert until(f'{results}.length == 2 && {results}.map(x => x.naturalWidth)') == [320, 32]
    text = until('document.body.innerText')
    assert 'sparx_mamba_mini_digits' in text
    assert 'kind ' in text
    assert 's for the image' in until('[...document.querySelectorAll("textarea")].map(x => x.value).join()')
    # The page requests nothing from other servers.
    loaded = until('performance.getEntriesByType("resource").map(x => x.name)')
    assert [name for name in loaded if not name.startswith(address)] == []

    # An example gives a result, too.
    browser.get(address)
    until('document.querySelector("button.gallery-item")').click()
    assert until(f'{results}.length == 2')

    (tmp_path / 'text.png').write_text('no image')
    until('document.querySelector(\'button[aria-label="Remove Image"]\')').click()
    until(upload).send_keys(str(tmp_path / 'text.png'))
    assert until('document.body.innerText.includes("This file is not an image, or damaged.")')
    assert 'Traceback' not in until('document.body.innerText')
