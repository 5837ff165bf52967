"""`sanitize`: small scans against the reference in float64."""

import pytest
import torch

pytest.importorskip('mmengine')
from benchmarks import sanitize
from mmsparx.ops.selective_scan import backends, reference

SMALL = ['--lengths', '1', '5', '--states', '1', '2', '--maps', '2x3']


def test_right_scans(capsys):
    assert sanitize.main(['--backend', 'reference', *SMALL]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 * 2 * 4 + 2 * 4
    assert all(line.startswith('right: ') for line in lines)


@pytest.mark.parametrize('wrong', [lambda x: x * 1.01, lambda x: x + torch.nan])
def test_wrong_scans(wrong, monkeypatch, capsys):
    def backward(*arguments):
        du, *others = reference.backward(*arguments)
        return wrong(du), *others

    planted = backends.Backend('planted', reference.forward, backward)
    monkeypatch.setattr(backends, 'BACKENDS', [*backends.BACKENDS, planted])
    sizes = ['--lengths', '5', '--states', '1', '--maps', '2x3', '--types', 'float32']
    assert sanitize.main(['--backend', 'planted', *sizes]) == 1
    said = capsys.readouterr()
    sequence, of_map = said.out.splitlines()
    assert sequence.startswith('WRONG: 2 x 12 x 5, N 1, float32: error / tolerance: u ')
    assert of_map.startswith('WRONG: maps 2 x 12 x 2 x 3, N 1, float32: error / tolerance: x ')
    assert said.err == '2 cases are wrong\n'


def test_an_unknown_backend(capsys):
    with pytest.raises(SystemExit):
        sanitize.main(['--backend', 'fast'])
    assert "unknown selective-scan backend 'fast', asked for by --backend" in capsys.readouterr().err
