"""`mmsparx configs` and `mmsparx export-config`, as a user runs them."""

import pytest

pytest.importorskip('mmengine', reason='configs and metafiles are read by mmengine')
from mmsparx.__main__ import main
from mmsparx.zoo import find_config


def test_configs(capsys):
    assert main(['configs', '--task', 'detection']) == 0
    table, note = capsys.readouterr().out.split('\n\n')
    rows = {row.split()[1]: row.split(maxsplit=2) for row in table.splitlines()}
    assert rows['mask_rcnn_sparx_t_1x'] == ['detection', 'mask_rcnn_sparx_t_1x', 'box AP 48.1, mask AP 43.1']
    assert rows['mask_rcnn_sparx_shapes'] == ['detection', 'mask_rcnn_sparx_shapes']
    assert {row[0] for row in rows.values()} == {'TASK', 'detection'}
    assert 'not measurements of this project' in note


def test_only_the_papers_figures_are_listed(capsys):
    """A metafile also has figures of its authors' second training."""
    assert main(['configs']) == 0
    (row,) = [row for row in capsys.readouterr().out.splitlines() if 'upernet_sparx_t_160k' in row]
    assert row.endswith(' mIoU 50.0, mIoU(ms+flip) 50.8')


def test_export_config(tmp_path, capsys):
    pytest.importorskip('mmdet', reason='the detection configs stand on mmdet')
    command = ['export-config', 'mask_rcnn_sparx_t_1x', str(tmp_path)]
    assert main(command) == 0
    assert capsys.readouterr().out == f'{tmp_path}/mask_rcnn_sparx_t_1x.py\n'
    assert main(command) == 1
    assert 'exists already' in capsys.readouterr().err
    assert main([*command, '--force']) == 0


def test_a_shipped_config_is_not_written_over(capsys):
    source = find_config('mask_rcnn_sparx_t_1x')
    before = source.read_bytes()
    assert main(['export-config', 'mask_rcnn_sparx_t_1x', str(source), '--force']) == 1
    assert 'is the shipped config, and is not overwritten' in capsys.readouterr().err
    assert source.read_bytes() == before


@pytest.mark.parametrize(
    ('command', 'message'),
    [
        (['export-config', 'mask_rcnn_sparx'], "mmsparx: no config 'mask_rcnn_sparx' in mmsparx; nearest: mask_rcnn_"),
        (['configs', '--task', 'pose'], "mmsparx: unknown task 'pose'; expected one of "),
    ],
)
def test_errors_of_the_user_are_one_line(command, message, capsys):
    assert main(command) == 1
    output = capsys.readouterr().err
    assert output.startswith(message)
    assert output.count('\n') == 1


def test_without_the_library_of_a_config(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr('mmengine.config.config.is_installed', lambda package: False)
    assert main(['export-config', 'mask_rcnn_sparx_t_1x', str(tmp_path)]) == 1
    assert "This command needs mmdet: pip install 'mmsparx[det]'\n" in capsys.readouterr().err
