"""Metafiles, configs, READMEs and the index agree, and hold what OpenMMLab's have."""

import re
from pathlib import Path

import pytest

pytest.importorskip('mmengine', reason='metafiles are read by mmengine')
from helpers.configs import CONFIGS
from mmengine.fileio import load

ROOT = CONFIGS.parent
TASKS = ('classification', 'detection', 'segmentation')
METAFILES = {task: load(CONFIGS / task / 'metafile.yml') for task in TASKS}
MODELS = {model['Name']: model for metafile in METAFILES.values() for model in metafile['Models']}
PAPER, RETRAINED = r'paper, Table \d', "retrained by the paper's authors"
# Where they were published; of the other models there are none.
WEIGHTS = {
    f'sparx_mamba_{name[0]}_in1k': f'https://github.com/LMMMEng/SparX/releases/download/v1/sparx_mamba_{name}_in1k.pth'
    for name in ('tiny', 'small', 'base')
}


@pytest.mark.skipif(not (ROOT / 'setup.py').is_file(), reason='needs the repository')
def test_the_index_names_all_metafiles():
    assert load(ROOT / 'model-index.yml') == {'Import': [f'configs/{task}/metafile.yml' for task in TASKS]}
    assert sorted(path.parent.name for path in CONFIGS.rglob('metafile.yml')) == list(TASKS)


@pytest.mark.parametrize('task', TASKS)
def test_the_form(task):
    metafile = METAFILES[task]
    assert metafile.keys() == {'Collections', 'Models'}
    for collection in metafile['Collections']:
        assert collection.keys() == {'Name', 'Metadata', 'Paper', 'README', 'Code'}
        assert collection['Paper'].keys() == {'Title', 'URL'}
        assert (CONFIGS.parent / collection['README']).samefile(CONFIGS / task / 'README.md')
    for model in metafile['Models']:
        assert model.keys() - {'Weights'} == {'Name', 'In Collection', 'Config', 'Metadata', 'Results'}
        assert model['In Collection'] in {collection['Name'] for collection in metafile['Collections']}
        assert {'FLOPs', 'Parameters'} <= model['Metadata'].keys()
        for result in model['Results']:
            assert result.keys() == {'Task', 'Dataset', 'Source', 'Metrics'}
            assert re.fullmatch(f'{PAPER}|{RETRAINED}', result['Source'])
            assert all(isinstance(value, float) for value in result['Metrics'].values())


@pytest.mark.parametrize('task', TASKS)
def test_every_published_config_has_one_entry(task):
    """Those of the paper name a size; the small ones and the examples have none."""
    leaves = sorted(path.stem for path in (CONFIGS / task).glob('*.py') if re.search(r'_[tsb]_', path.stem))
    assert sorted(model['Name'] for model in METAFILES[task]['Models']) == leaves
    for model in METAFILES[task]['Models']:
        assert model['Config'] == f'configs/{task}/{model["Name"]}.py'


def test_weights_are_those_that_were_published():
    assert {name: model['Weights'] for name, model in MODELS.items() if 'Weights' in model} == WEIGHTS


def metrics(model, source):
    return {k: v for r in model['Results'] if re.fullmatch(source, r['Source']) for k, v in r['Metrics'].items()}


@pytest.mark.parametrize('name', MODELS)
def test_a_config_says_the_same_of_itself(name):
    """Its first line has the paper's figures in the metafile's order, then the others."""
    model = MODELS[name]
    comment = (CONFIGS.parent / model['Config']).read_text().partition('\n')[0]
    assert comment.startswith('# The paper reports ')
    expected = [*metrics(model, PAPER).values(), *metrics(model, RETRAINED).values()]
    assert [float(figure) for figure in re.findall(r'\d+\.\d', comment)] == expected


def rows(readme: Path):
    """The rows of a README's tables of models, each as a dict by the table's heads."""
    found, heads = [], []
    for line in readme.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip('|').split('|')]
        if line.startswith('| config |'):
            heads = cells
        elif line.startswith('| ['):
            found.append(dict(zip(heads, cells, strict=True)))
    return found


@pytest.mark.parametrize('task', TASKS)
def test_a_readme_has_the_same_models_and_figures(task):
    readme = CONFIGS / task / 'README.md'
    table = rows(readme)
    assert [row['config'] for row in table] == [f'[{m["Name"]}]({m["Name"]}.py)' for m in METAFILES[task]['Models']]
    for row, model in zip(table, METAFILES[task]['Models'], strict=True):
        retrained = {f'{name} (retrained)': value for name, value in metrics(model, RETRAINED).items()}
        figures = {name: str(value) for name, value in (metrics(model, PAPER) | retrained).items()}
        figures['parameters (M)'] = f'{model["Metadata"]["Parameters"] / 1e6:g}'
        (flops,) = (head for head in row if head.startswith('GFLOPs at '))
        figures[flops] = f'{model["Metadata"]["FLOPs"] / 1e9:g}'
        if 'Weights' in model:
            figures['weights'] = f'[{Path(model["Weights"]).name}]({model["Weights"]})'
        assert row == {'config': row['config'], **figures}


@pytest.mark.parametrize('task', TASKS)
def test_a_readme_says_whose_figures_they_are_and_its_links_lead_somewhere(task):
    text = (CONFIGS / task / 'README.md').read_text()
    tables = {r['Source'].removeprefix('paper, ') for m in METAFILES[task]['Models'] for r in m['Results']} - {
        RETRAINED
    }
    for table in tables:
        assert f"are the paper's ({table}), not measurements of this project" in text
    for link in re.findall(r'\]\((?!https:)([^)]+)\)', text):
        assert (CONFIGS / task / link).exists(), link
    for config in re.findall(r'configs/[\w/]+\.py', text):
        assert (CONFIGS.parent / config).is_file(), config
