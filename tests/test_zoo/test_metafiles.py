"""Metafiles, configs, READMEs and the index agree, and hold what OpenMMLab's have."""

import re
from pathlib import Path

import pytest

pytest.importorskip('mmengine', reason='metafiles are read by mmengine')
from helpers.configs import CONFIGS
from mmengine.fileio import load

from mmsparx.zoo import PaperFigure, paper_figures

ROOT = CONFIGS.parent
TASKS = ('ablations', 'classification', 'detection', 'segmentation')
METAFILES = {task: load(CONFIGS / task / 'metafile.yml') for task in TASKS}
MODELS = {model['Name']: model for metafile in METAFILES.values() for model in metafile['Models']}
PAPER, RETRAINED, VMAMBA = r'paper, Table \d+', "retrained by the paper's authors", "VMamba's authors"
# Addresses of published weights; the other models have none.
WEIGHTS = {
    f'sparx_mamba_{name[0]}_in1k': f'https://github.com/LMMMEng/SparX/releases/download/v1/sparx_mamba_{name}_in1k.pth'
    for name in ('tiny', 'small', 'base')
} | {
    f'vmamba_{name}_in1k': f'https://github.com/MzeroMiko/VMamba/releases/download/%23v2cls/{file}.pth'
    for name, file in {
        't': 'vssm_tiny_0230_ckpt_epoch_262',
        't_s1l8': 'vssm1_tiny_0230s_ckpt_epoch_264',
        's': 'vssm_small_0229_ckpt_epoch_222',
        'b': 'vssm_base_0229_ckpt_epoch_237',
    }.items()
}
# The paper has no parameters and GFLOPs of these models, and no result of the last one.
WITHOUT_COST = {f'fpn_sparx_t_{variant}_80k' for variant in ('dgc', 'dsn', 'concat', 'wo_gcca', 'sca', 'sra')}
WITHOUT_RESULT = {'mask_rcnn_vmamba_b_3x'}


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
        assert ({'FLOPs', 'Parameters'} <= model['Metadata'].keys()) == (model['Name'] not in WITHOUT_COST)
        assert re.match('determined|fitted: |does not agree', model['Metadata']['Design'])
        assert bool(model['Results']) == (model['Name'] not in WITHOUT_RESULT)
        for result in model['Results']:
            assert result.keys() == {'Task', 'Dataset', 'Source', 'Metrics'}
            assert re.fullmatch(f'{PAPER}|{RETRAINED}|{VMAMBA}', result['Source'])
            assert all(isinstance(value, float) for value in result['Metrics'].values())


@pytest.mark.parametrize('task', TASKS)
def test_every_published_config_has_one_entry(task):
    """Configs of the paper name a size; small configs and examples have no entry."""
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
    """Its first line has the paper's figures in the metafile's order, then the others; the design follows."""
    model = MODELS[name]
    comment = (CONFIGS.parent / model['Config']).read_text().partition('\n_base_ = ')[0]
    figures, *design = comment.split('\n')
    theirs = metrics(model, VMAMBA)
    assert figures.startswith("# Not in the paper; VMamba's authors report " if theirs else '# The paper reports ')
    expected = [*metrics(model, PAPER).values(), *metrics(model, RETRAINED).values(), *theirs.values()]
    assert [float(figure) for figure in re.findall(r'\d+\.\d', figures)] == expected
    text = ' '.join(line.removeprefix('# ') for line in design)
    expected = model['Metadata']['Design']
    assert text == f'{expected[0].upper()}{expected[1:]}.'


@pytest.mark.parametrize(
    ('name', 'printed'),
    [
        ('sparx_mamba_t_in1k', ('27', '5.2')),
        ('sparx_mamba_t_sra_in1k', ('27.0', '5.3')),  # Table 5 has another digit
        ('sparx_swin_b_in1k', ('88', '16.2')),
        ('fpn_sparx_t_s1_80k', ('33.7', '206')),
        ('mask_rcnn_vmamba_b_3x', ('108', '485')),
        ('fpn_sparx_t_dgc_80k', ('None', 'None')),
    ],
)
def test_figures_as_they_are_printed(name, printed):
    assert tuple(map(str, paper_figures(MODELS[name]))) == printed


@pytest.mark.parametrize(
    ('figure', 'counted', 'agrees'),
    [
        (PaperFigure(25, 0), 25.49, True),  # its digits
        (PaperFigure(25, 0), 25.51, False),
        (PaperFigure(954, 0), 963, True),  # 1 %
        (PaperFigure(954, 0), 944, False),
    ],
)
def test_agreement(figure, counted, agrees):
    assert figure.agrees(counted) == agrees


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
        reported = metrics(model, f'{PAPER}|{VMAMBA}') | retrained
        figures = {name: str(value) for name, value in reported.items()}
        (flops,) = (head for head in row if head.startswith('GFLOPs at '))
        figures['parameters (M)'], figures[flops] = (str(figure or '-') for figure in paper_figures(model))
        figures['design'] = model['Metadata']['Design']
        if 'Weights' in model:
            figures['weights'] = f'[{Path(model["Weights"]).name}]({model["Weights"]})'
        assert figures.keys() <= row.keys()
        assert row == dict.fromkeys(row, '-') | figures | {'config': row['config']}


@pytest.mark.parametrize('task', TASKS)
def test_a_readme_says_whose_figures_they_are_and_its_links_lead_somewhere(task):
    text = (CONFIGS / task / 'README.md').read_text()
    sources = {result['Source'] for model in METAFILES[task]['Models'] for result in model['Results']}
    tables = sorted(int(source.split()[-1]) for source in sources if re.fullmatch(PAPER, source))
    *others, last = map(str, tables)
    named = f'Tables {", ".join(others)} and {last}' if others else f'Table {last}'
    assert f"are the paper's ({named}), not measurements of this project" in re.sub(r'\s+', ' ', text)
    assert (VMAMBA in text) == (VMAMBA in sources)
    for link in re.findall(r'\]\((?!https:)([^)]+)\)', text):
        assert (CONFIGS / task / link).exists(), link
    for config in re.findall(r'configs/[\w/]+\.py', text):
        assert (CONFIGS.parent / config).is_file(), config
