"""Networks as files: each is run in its runtime and gives the network's outputs, at any size."""

import json
import pickle
import zipfile

import numpy as np
import pytest
import torch

pytest.importorskip('mmengine', reason='the networks need it')
pytest.importorskip('onnxscript', reason='networks are exported to ONNX by it')
pytest.importorskip('onnxruntime', reason='it runs the files')
import onnx
from helpers import randomise
from helpers.networks import NETWORKS
from torch import nn

from mmsparx.export import DisagreementError, Exported, export, open_file
from mmsparx.models import SparXClassifier, SparXNet
from mmsparx.ops import native

# The networks have few layers, since tracing with open sizes takes seconds per layer.
SMALL = {'channels': (8,), 'stages': [{'depth': 2, 'stride': 1}]}
TINY = {'channels': (8,), 'stages': [{'depth': 1}]}
TWO = {'channels': (8, 16), 'stages': [{'depth': 1}, {'depth': 1}]}


def make(name='SS2D', arch=SMALL, **options):
    stages = tuple(range(len(arch['stages'])))
    return randomise(SparXNet(arch, out_indices=stages, **{**NETWORKS[name], **options})).eval()


def runtimes(name):
    """Runtimes that an ONNX file is compared in, by the name of its network."""
    library = name != 'WindowAttention' and native.without_ort() is None
    return ['onnxruntime', 'onnxruntime with mmsparx'] if library else ['onnxruntime']


def outputs(network, image):
    with torch.no_grad():
        return [x.numpy() for x in network(torch.from_numpy(image))]


def assert_close(found, expected, tolerance=1e-5):
    for a, b in zip(found, expected, strict=True):
        assert a.shape == b.shape
        assert np.abs(a - b).max() <= tolerance * np.abs(b).max()


@pytest.mark.parametrize(('name', 'arch'), [('SS2D', TWO), ('BiSSM', TINY), ('WindowAttention', SMALL)])
def test_a_file_of_onnx_of_open_sizes(name, arch, tmp_path):
    network = make(name, arch)
    done = export(network, tmp_path / 'network.onnx')
    shapes = ((2, 3, 128, 160), (1, 3, 97, 131), (3, 3, 96, 192), (2, 3, 32, 32))
    assert list(done.errors) == [(runtime, shape) for runtime in runtimes(name) for shape in shapes]
    assert done.largest_error < 1e-5
    assert {path.name for path in tmp_path.iterdir()} == {'network.onnx', 'network.json'}
    # The export has not tried these sizes, on both sides of a window and of a shift.
    run = open_file(done.file)
    for shape in ((1, 3, 33, 65), (4, 3, 48, 32)):
        image = np.random.default_rng(1).standard_normal(shape, dtype=np.float32)
        assert_close(run(image), outputs(network, image))


@pytest.mark.parametrize('name', NETWORKS)
def test_a_file_of_onnx_of_one_size(name, tmp_path):
    done = export(make(name), tmp_path / 'network.onnx', static=(36, 44))
    assert list(done.errors) == [(runtime, (1, 3, 36, 44)) for runtime in runtimes(name)]
    assert done.largest_error < 1e-5


def test_several_states_a_position_in_a_new_folder(tmp_path):
    network = make(token_mixer={'type': 'SS2D', 'state_size': 3})
    assert export(network, tmp_path / 'new/folder/network.onnx', static=(36, 44)).largest_error < 1e-5


def test_a_fixed_size_inlined_in_16_bits(tmp_path):
    network = SparXClassifier(randomise(SparXNet(SMALL, out_indices=(0,), output_norm=False)), 5).eval()
    done = export(
        network, tmp_path / 'n.onnx', static=(40, 48), inline=True, fp16=True, description={'mean': [1, 2, 3]}
    )
    assert list(done.errors) == [('onnxruntime', (1, 3, 40, 48))]
    assert 0 < done.rounding < 1e-2
    model = onnx.load(done.file)
    assert model.ir_version == 8  # onnxruntime 1.17 reads it
    assert not model.functions
    assert {node.domain for node in model.graph.node} == {''}
    assert [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim] == [1, 3, 40, 48]
    halves = [t for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT16]
    assert len(halves) > 10
    assert {p.key: json.loads(p.value) for p in model.metadata_props} == json.loads(done.description.read_text())
    about = json.loads(done.description.read_text())
    assert (about['task'], about['size'], about['batch'], about['mean']) == ('classification', [40, 48], 1, [1, 2, 3])


@pytest.mark.parametrize(
    ('rounding', 'words'),
    [(0.002, 'the outputs differ by up to 2.0e-03 from'), (float('inf'), 'more than one of twenty detections differ')],
)
def test_the_message_about_16_bits(rounding, words):
    said = str(Exported('n.onnx', 'n.json', {('onnxruntime', (1, 3, 32, 32)): 1e-6}, rounding))
    assert f'weights in 16 bits: {words}' in said
    assert 'inf' not in said


def test_openvino(tmp_path):
    pytest.importorskip('openvino', reason='it runs the file')
    done = export(make(arch=TINY), tmp_path / 'network.xml')
    assert {shape for _, shape in done.errors} >= {(2, 3, 128, 160), (1, 3, 97, 131), (2, 3, 32, 32)}
    assert done.largest_error < 1e-5
    assert {path.name for path in tmp_path.iterdir()} == {'network.xml', 'network.bin', 'network.json'}


def test_torch_export(tmp_path):
    network = make()
    done = export(network, tmp_path / 'network.pt2')
    assert done.largest_error < 1e-5
    assert {shape for _, shape in done.errors} >= {(1, 3, 97, 131), (2, 3, 32, 32)}


def rewritten(file, target, change):
    """A copy of an archive whose contents go through `change(name, content)`."""
    with zipfile.ZipFile(file) as source, zipfile.ZipFile(target, 'w') as copy:
        for name in source.namelist():
            copy.writestr(name, change(name, source.read(name)))
    return target


class Planted:
    def __reduce__(self):
        return open, (str(Planted.file), 'w')


def test_a_pickle_in_an_archive_is_refused_unread(tmp_path):
    Planted.file = tmp_path / 'executed'
    module = nn.Conv2d(3, 4, 1)
    torch.export.save(torch.export.export(module, (torch.ones(1, 3, 4, 4),)), tmp_path / 'n.pt2')
    open_file(tmp_path / 'n.pt2')
    planted = pickle.dumps(Planted())
    wanting = rewritten(
        tmp_path / 'n.pt2',
        tmp_path / 'wanting.pt2',
        lambda name, content: content.replace(b'"use_pickle": false', b'"use_pickle": true')
        if name.endswith('_config.json')
        else planted
        if '/weights/' in name
        else content,
    )
    with pytest.raises(ValueError, match='unpickled, which could execute code'):
        open_file(wanting)
    for content in (b'[]', b'{"config": [1]}', b'{"config": {"weight": {}}}', b'no JSON'):
        other = rewritten(
            tmp_path / 'n.pt2',
            tmp_path / 'other.pt2',
            lambda name, old, new=content: new if name.endswith('_config.json') else old,
        )
        with pytest.raises(ValueError, match='is not the list of tensors'):
            open_file(other)
    sample = rewritten(
        tmp_path / 'n.pt2',
        tmp_path / 'sample.pt2',
        lambda name, content: planted if '/sample_inputs/' in name else content,
    )
    with pytest.raises(ValueError, match='holds more than tensors'):
        open_file(sample)
    (tmp_path / 'other.pt2').write_bytes(planted)
    with pytest.raises(ValueError, match='expected an archive'):
        open_file(tmp_path / 'other.pt2')
    assert not Planted.file.exists()


@pytest.mark.parametrize('kept', [True, False])
def test_a_file_that_does_not_agree_is_not_left(kept, tmp_path, monkeypatch):
    """An earlier file stays."""
    from mmsparx.export import scan_functions

    right = scan_functions._output

    def wrong(op, h, C, *arguments):
        return right(op, op('Mul', h, op.number(1.01)), C, *arguments)

    monkeypatch.setattr(scan_functions, '_output', wrong)
    if kept:
        (tmp_path / 'network.onnx').write_text('old')
    with pytest.raises(DisagreementError, match=r'The first layer that differs: model\.stages\.0\.layers\.0\.mixer'):
        export(make(arch=TINY), tmp_path / 'network.onnx', static=(36, 44))
    assert [path.read_text() for path in tmp_path.iterdir()] == ['old'] * kept


@pytest.mark.parametrize(
    ('file', 'options', 'message'),
    [
        ('n.tflite', {}, r'expected a file that ends in \.onnx'),
        ('n.pt2', {'fp16': True}, 'leave fp16 out'),
        ('n.xml', {'fp16': True}, 'leave fp16 out'),
        ('n.xml', {'inline': True}, 'for files of ONNX alone'),
        ('n.onnx', {'static': (31, 64)}, 'from 32 on, got 31x64'),
    ],
)
def test_refusals(file, options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        export(make(), tmp_path / file, **options)


def test_other_models_are_refused(tmp_path):
    with pytest.raises(ValueError, match='expected a network of mmsparx'):
        export(nn.Conv2d(3, 4, 1), tmp_path / 'n.onnx')


def test_weights_that_are_nan_are_named(tmp_path):
    network = make()
    network.stages[0].layers[1].norm1.weight.data[3] = float('nan')
    with pytest.raises(ValueError, match=r'model\.stages\.0\.layers\.1\.norm1\.weight has values that are NaN'):
        export(network, tmp_path / 'n.onnx')


def test_a_missing_package_is_named_with_the_extra(tmp_path, monkeypatch):
    from mmsparx.export import requirements

    monkeypatch.setitem(requirements._TO_WRITE, 'onnx', ('no_such_package',))
    with pytest.raises(ModuleNotFoundError, match=r"no_such_package, .* pip install 'mmsparx\[export\]'"):
        export(make(), tmp_path / 'n.onnx')
