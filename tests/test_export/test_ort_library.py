"""The library for onnxruntime: its scans against the reference in float64, and the nodes that it accepts."""

import ctypes
import json

import numpy as np
import pytest
import torch

pytest.importorskip('mmengine', reason='the networks need it')
pytest.importorskip('onnx', reason='the nodes are of ONNX')
pytest.importorskip('onnxruntime', reason='it runs them')
import onnxruntime
from helpers import randomise, relative_error
from helpers.networks import NETWORKS
from onnx import TensorProto, helper

from mmsparx.export import export, library, open_file, ort_library, scan_functions
from mmsparx.models import SparXNet
from mmsparx.ops import cross_scan, cross_selective_scan, native, selective_scan

MISSING = native.without_ort()
built = pytest.mark.skipif(MISSING is not None, reason=f'no library: {MISSING}')
INSTRUCTION_SETS = native.instruction_sets() or ('baseline',)
TOLERANCE = 1e-6


def model_of(name, inputs, functions=(), output=TensorProto.FLOAT):
    """A model of one node."""
    names = [key if x is not None else '' for key, x in inputs.items()]
    given = {key: x for key, x in inputs.items() if x is not None}
    first = next(iter(given.values()))
    types = {torch.float32: TensorProto.FLOAT, torch.float64: TensorProto.DOUBLE}
    graph = helper.make_graph(
        [helper.make_node(name, names, ['y'], domain=scan_functions.DOMAIN)],
        'one node',
        [helper.make_tensor_value_info(key, types[x.dtype], [None] * x.dim()) for key, x in given.items()],
        [helper.make_tensor_value_info('y', output, [None] * first.dim())],
    )
    imports = [helper.make_opsetid('', scan_functions.OPSET), helper.make_opsetid(scan_functions.DOMAIN, 1)]
    return helper.make_model(graph, opset_imports=imports, functions=functions, ir_version=8)


def run(name, inputs, threads=1, **options):
    """Run a node by the library, without a function that could take its place."""
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    settings.log_severity_level = 4  # fatal only: failures here are intended
    settings.register_custom_ops_library(str(ort_library()))
    model = model_of(name, inputs, **options).SerializeToString()
    session = onnxruntime.InferenceSession(model, settings, providers=['CPUExecutionProvider'])
    return session.run(None, {key: x.numpy() for key, x in inputs.items() if x is not None})[0]


def map_inputs(states=1, height=3, width=5, batch=2, channels=5, rank=2):
    return {
        'x': torch.randn(batch, channels, height, width),
        'parts': torch.randn(batch, 4 * (rank + 2 * states), height, width),
        'weight': torch.randn(4, channels, rank),
        'bias': torch.randn(4, channels),
        'A': -torch.rand(4 * channels, states) * 3,
        'D': torch.randn(4 * channels),
    }


def map_reference(x, parts, weight, bias, A, D):
    rank, states = weight.shape[2], A.shape[1]
    step, B, C = cross_scan(parts.unflatten(1, (4, -1))).split([rank, states, states], 2)
    return cross_selective_scan(
        x, step, weight.flatten(0, 1), A, B, C, D, bias.flatten(), True, backend='reference'
    )  # fmt: skip


def sequence_inputs(states=1, length=9, batch=2, channels=5):
    return {
        'u': torch.randn(batch, channels, length),
        'delta': torch.randn(batch, channels, length),
        'A': -torch.rand(channels, states) * 3,
        'B': torch.randn(batch, 1, states, length),
        'C': torch.randn(batch, 1, states, length),
        'D': torch.randn(channels),
        'bias': torch.randn(channels),
    }


def sequence_reference(u, delta, A, B, C, D, bias):
    return selective_scan(u, delta, A, B, C, D, delta_bias=bias, delta_softplus=True, backend='reference')


def exact(reference, inputs):
    return reference(*(x.double() for x in inputs.values()))


@pytest.fixture(params=INSTRUCTION_SETS)
def instruction_set(request, monkeypatch):
    monkeypatch.setenv(native.VARIABLE, request.param)
    return request.param


def used_instruction_set():
    name = ctypes.CDLL(str(ort_library())).mmsparx_instruction_set
    name.restype = ctypes.c_char_p
    return name().decode()


@built
@pytest.mark.parametrize('states', [1, 2, 16])
def test_maps(states, instruction_set):
    # One position; odd sides; several tiles of a kernel, and a number of channels that no block size divides.
    for size in ({'height': 1, 'width': 1}, {'height': 7, 'width': 4}, {'height': 21, 'width': 37, 'channels': 11}):
        inputs = map_inputs(states, **size)
        expected = exact(map_reference, inputs)
        for threads in (1, 2):
            assert relative_error(torch.from_numpy(run('SS2DScan', inputs, threads)), expected) < TOLERANCE
    assert used_instruction_set() == instruction_set


@built
@pytest.mark.parametrize('states', [1, 2, 16])
def test_sequences(states, instruction_set):
    for size in ({'length': 1}, {'length': 130}, {'length': 777, 'channels': 37}):
        inputs = sequence_inputs(states, **size)
        expected = exact(sequence_reference, inputs)
        for threads in (1, 2):
            assert relative_error(torch.from_numpy(run('SelectiveScan', inputs, threads)), expected) < TOLERANCE
    assert used_instruction_set() == instruction_set


@built
def test_empty_batches():
    assert run('SS2DScan', map_inputs(batch=0)).shape == (0, 5, 3, 5)
    assert run('SelectiveScan', sequence_inputs(batch=0)).shape == (0, 5, 9)


@built
def test_an_unknown_instruction_set_is_not_used(monkeypatch, capfd):
    monkeypatch.setenv(native.VARIABLE, 'mmx')
    run('SS2DScan', map_inputs())
    output = capfd.readouterr().err
    assert f"unknown instruction set 'mmx', asked for by the environment variable {native.VARIABLE}" in output
    assert f"using '{INSTRUCTION_SETS[0]}'" in output
    assert used_instruction_set() == INSTRUCTION_SETS[0]


@built
@pytest.mark.parametrize(
    ('name', 'inputs', 'change', 'message'),
    [
        ('SS2DScan', map_inputs, {'x': (2, 5, 3)}, r'x of shape \(batch, C, H, W\), got \(2, 5, 3\)'),
        ('SS2DScan', map_inputs, {'x': (2, 6, 3, 5)}, r'weight of shape \(4, 6, 2\), got \(4, 5, 2\)'),
        ('SS2DScan', map_inputs, {'x': (2, 5, 5, 3)}, r'parts of shape \(2, 16, 5, 3\), got \(2, 16, 3, 5\)'),
        ('SS2DScan', map_inputs, {'parts': (2, 17, 3, 5)}, r'parts of shape \(2, 16, 3, 5\), got \(2, 17, 3, 5\)'),
        ('SS2DScan', map_inputs, {'bias': (20,)}, r'bias of shape \(4, C\), got \(20\)'),
        ('SS2DScan', map_inputs, {'A': (5, 1)}, r'A of shape \(20, 1\), got \(5, 1\)'),
        ('SS2DScan', map_inputs, {'A': (20, 0), 'parts': (2, 8, 3, 5)}, r'A of at least one state, got \(20, 0\)'),
        ('SS2DScan', map_inputs, {'D': (19,)}, r'D of shape \(20\), got \(19\)'),
        ('SelectiveScan', sequence_inputs, {'delta': (2, 5, 8)}, r'delta of shape \(2, 5, 9\), got \(2, 5, 8\)'),
        ('SelectiveScan', sequence_inputs, {'B': (2, 5, 1, 9)}, r'B of shape \(2, 1, 1, 9\), got \(2, 5, 1, 9\)'),
        ('SelectiveScan', sequence_inputs, {'C': (2, 1, 9)}, r'C of shape \(batch, 1, n, L\), got \(2, 1, 9\)'),
        ('SelectiveScan', sequence_inputs, {'bias': (1,)}, r'bias of shape \(5\), got \(1\)'),
    ],
)
def test_shapes_that_disagree(name, inputs, change, message):
    changed = inputs() | {key: torch.ones(shape) for key, shape in change.items()}
    with pytest.raises(Exception, match=f'mmsparx::{name}: expected {message}'):
        run(name, changed)


@built
@pytest.mark.parametrize('types', [{'output': TensorProto.FLOAT16}, {'output': TensorProto.DOUBLE}, {}])
def test_other_types(types):
    """They belong to the output or to an input, in files whose own function has them, too."""
    inputs = map_inputs() if types else map_inputs() | {'A': torch.ones(20, 1, dtype=torch.float64)}
    kind = types.get('output', TensorProto.FLOAT)
    function = helper.make_function(
        scan_functions.DOMAIN,
        'SS2DScan',
        list(inputs),
        ['y'],
        [helper.make_node('Cast', ['x'], ['y'], to=kind)],
        [helper.make_opsetid('', scan_functions.OPSET)],
    )
    for functions in ([], [function]):
        with pytest.raises(Exception, match='Type Error'):
            run('SS2DScan', inputs, functions=functions, output=kind)


@built
def test_missing_inputs():
    inputs = map_inputs()
    with pytest.raises(Exception, match='input 5 is marked single but has an empty string'):
        run('SS2DScan', inputs | {'D': None})
    del inputs['D']
    with pytest.raises(Exception, match='has input size 5 not in range'):
        run('SS2DScan', inputs)


@built
def test_a_network(tmp_path):
    arch = {'channels': (8,), 'stages': [{'depth': 1}]}
    network = randomise(SparXNet(arch, out_indices=(0,), **NETWORKS['SS2D'])).eval()
    file = export(network, tmp_path / 'network.onnx').file
    runs = [open_file(file, library=library) for library in (False, True, None)]
    assert [run.runtime for run in runs] == ['onnxruntime', *['onnxruntime with mmsparx'] * 2]
    image = np.random.default_rng(1).standard_normal((1, 3, 36, 44), dtype=np.float32)
    outputs = [run(image)[0] for run in runs]
    with torch.no_grad():
        expected = network(torch.from_numpy(image))[0]
    assert max(relative_error(torch.from_numpy(output), expected) for output in outputs) < 1e-5
    assert not np.array_equal(outputs[0], outputs[1])  # other operators ran
    assert np.array_equal(outputs[1], outputs[2])


@built
def test_it_needs_neither_torch_nor_python():
    content = ort_library().read_bytes()
    for name in (b'libtorch', b'libc10', b'libpython', b'libgomp'):
        assert name not in content


@pytest.mark.parametrize(
    ('record', 'reason'),
    [
        (None, 'this copy of mmsparx was not installed'),
        ({'built': False, 'torch': None, 'reason': 'no C++ compiler'}, 'no C++ compiler'),
        ({'built': True, 'torch': '2.4', 'reason': None, 'ort_reason': 'g++ failed'}, 'g++ failed'),
        ({'built': True, 'torch': '2.4', 'reason': None}, 'its record does not say why'),
    ],
)
def test_where_it_was_not_built(record, reason, tmp_path, monkeypatch):
    if record is not None:
        (tmp_path / '_build.json').write_text(json.dumps(record))
    monkeypatch.setattr(library, '_PACKAGE', tmp_path)
    with pytest.raises(FileNotFoundError) as raised:
        ort_library()
    assert f'it was not compiled: {reason}; to compile it: pip install' in str(raised.value)
