"""The documents: links have targets, Python blocks run, and commands accept their arguments."""

import json
import re
import shlex
from pathlib import Path

import pytest
import torch
from helpers.forked import run_code
from helpers.tools import ROOT

pytest.importorskip('mmengine', reason='the documents use the backbones')
from mmengine.config import Config

from mmsparx.cli.parser import make_parser
from mmsparx.models import SparXClassifier, SparXMamba

DOCUMENTS = {
    str(path.relative_to(ROOT)): path
    for path in sorted([*ROOT.glob('*.md'), *ROOT.glob('docs/*.md'), *ROOT.glob('configs/*/README.md')])
}
# `test_outside`, `test_walkthroughs` and the tests of `export` run the blocks of the other documents.
RUN = [
    'README.md', 'docs/architecture.md', 'docs/weights.md', 'docs/scan.md', 'docs/extending.md', 'docs/timm.md',
]  # fmt: skip
COMMAND = re.compile(r'^    (?:python -m )?mmsparx (.+)$', re.MULTILINE)
SCRIPT = re.compile(r'^    (?:python )?((?:tools|demo)/\S+)(.*)$', re.MULTILINE)


def anchors(path: Path) -> set[str]:
    """The anchors of a document's headings, by GitHub's rule."""
    heads = re.findall(r'^#+ (.+)$', path.read_text(), re.MULTILINE)
    return {re.sub(r'[^\w\- ]', '', head.lower()).replace(' ', '-') for head in heads}


def blocks(name: str) -> list[str]:
    return re.findall(r'^```python\n(.*?)^```', DOCUMENTS[name].read_text(), re.MULTILINE | re.DOTALL)


def test_the_notebook(tmp_path):
    """Its code runs, except for the installation and shell commands."""
    cells = json.loads((ROOT / 'demo/quickstart.ipynb').read_text())['cells']
    code = ['import matplotlib; matplotlib.use("agg")']
    for cell in cells:
        assert not cell.get('outputs'), 'the notebook is committed without outputs'
        source = ''.join(cell['source'])
        if cell['cell_type'] == 'code' and not source.startswith(('%', '!')):
            code.append(source)
        for target in re.findall(r'\]\(([^)\s]+)\)', source):
            assert (ROOT / 'demo' / target).exists()
    status, said = run_code('\n'.join(code), tmp_path, tmp_path / 'log')
    assert status == 0, said
    assert float(re.search(r'accuracy ([\d.]+)%', said)[1]) > 50
    assert 'same outputs: True' in said


@pytest.mark.parametrize('name', DOCUMENTS)
def test_links(name):
    path = DOCUMENTS[name]
    targets = re.findall(r'\]\(([^)\s]+)\)|src="([^"]+)"', path.read_text())
    for target in (markdown or html for markdown, html in targets):
        if re.match(r'https?:', target):
            continue
        file, _, anchor = target.partition('#')
        found = path.parent / file if file else path
        assert found.exists(), f'{target}: no such file'
        assert not anchor or anchor in anchors(found), f'{target}: no such heading'


@pytest.mark.parametrize('name', DOCUMENTS)
def test_every_document_is_linked(name):
    """The README, or a document that it links, links it."""
    linked = {ROOT / 'README.md'}
    for path in [ROOT / 'README.md', *DOCUMENTS.values()]:
        if path in linked or path.parent == ROOT:
            linked |= {(path.parent / t).resolve() for t in re.findall(r'\]\(([^)#\s]+)', path.read_text())}
    assert DOCUMENTS[name] in linked


@pytest.fixture(scope='module')
def folder(tmp_path_factory) -> Path:
    """A folder with the file of weights that the documents name."""
    path = tmp_path_factory.mktemp('documents')
    model = SparXClassifier(SparXMamba('tiny', out_indices=(3,), output_norm=False), num_classes=1000)
    torch.save(model.state_dict(), path / 'sparx_mamba_tiny_in1k.pth')
    return path


@pytest.mark.parametrize(('name', 'index'), [(name, i) for name in RUN for i in range(len(blocks(name)))])
def test_python_blocks(name, index, folder, tmp_path):
    code = blocks(name)[index]
    if '_base_' in code:
        (folder / 'config.py').write_text(code)
        assert Config.fromfile(folder / 'config.py').model.backbone.type == 'mmsparx.SparXMamba'
        return
    status, said = run_code(code, folder, tmp_path / 'log')
    assert status == 0, said


@pytest.mark.parametrize('name', DOCUMENTS)
def test_commands(name):
    """They parse, and the files of the repository that they name exist."""
    text = re.sub(r'\\\n\s*', '', DOCUMENTS[name].read_text())  # continued lines
    for line in COMMAND.findall(text):
        arguments = shlex.split(line.partition(' > ')[0], comments=True)
        if '...' not in line:
            make_parser('mmsparx').parse_args(arguments)
    for script, rest in SCRIPT.findall(text):
        assert (ROOT / script).is_file(), script
        for word in shlex.split(rest, comments=True):
            assert not word.startswith('configs/') or (ROOT / word).is_file(), word
