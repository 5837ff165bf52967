"""The report of an environment, as data and as text."""

import sys
from collections.abc import Mapping

from mmsparx.doctor.clashes import STATUSES, find_clashes
from mmsparx.doctor.environment import PROVIDERS, Environment
from mmsparx.doctor.mending import install_torch

_VERSIONS = ('torch', 'torchvision', 'numpy', 'mmengine', 'mmcv', 'mmdet', 'mmseg', 'mmpretrain', 'timm', 'setuptools')
_EXTRAS = {'mmengine': 'mmengine', 'mmdet': 'det', 'mmseg': 'seg', 'mmpretrain': 'cls', 'timm': 'cls'}


def make_report(env: Environment) -> dict:
    """The object that `--json` writes; see `mmsparx.doctor`."""
    checks = [vars(finding) for finding in find_clashes(env)]
    backends = [_judged(env, row) for row in env.backends]
    statuses = {row['status'] for row in (*checks, *backends)}
    return {
        'status': max(statuses & set(STATUSES), key=STATUSES.index),
        'python': sys.executable,
        'versions': {
            'mmsparx': env.versions.get('mmsparx'),
            'python': env.python,
            **{name: _version(env, name) for name in _VERSIONS},
            'cuda': env.torch and env.torch['cuda'],
            'nvcc': env.nvcc,
            'compiler': env.compiler,
        },
        'gpus': env.torch['gpus'] if env.torch else [],
        'backends': backends,
        'checks': checks,
    }


def _version(env: Environment, name: str) -> str | None:
    if name == 'torch' and env.torch:
        return env.torch['version']  # with its build, as in 2.11.0+cpu
    usual = PROVIDERS.get(name, (name,))[0]
    versions = [
        env.versions[each] if each == usual else f'{env.versions[each]} ({each})' for each in env.providers(name)
    ]
    imported = name in env.imports and env.imports[name] is None
    return ', '.join(versions) or ('without metadata' if imported else None)


def _judged(env: Environment, row: Mapping) -> dict:
    told = {key: row[key] for key in ('name', 'device', 'instruction_set', 'in_use')}
    if row['missing'] is not None:
        return told | {'status': 'unavailable', 'found': row['missing'], 'mend': ''}
    if row['failed'] is None:
        return told | {'status': 'ok', 'found': row['told'], 'mend': ''}
    mend = 'export MMSPARX_SCAN_BACKEND=reference' if row['name'] != 'reference' else install_torch(env)
    return told | {'status': 'error', 'found': row['failed'], 'mend': mend}


def as_text(report: dict) -> str:
    """The report for a reader: what there is, the backends, then what needs attention."""
    versions = dict(report['versions'])
    lines = [f'mmsparx {versions.pop("mmsparx")}, Python {versions.pop("python")} ({report["python"]})', '']
    fork = 'onedl-' in str(versions)
    for name, version in versions.items():
        lines.append(f'{name:<13}{version or _absent(name, fork)}')
    gpus = [f'{gpu["name"]}, capability {gpu["capability"]}, {gpu["memory_gib"]} GiB' for gpu in report['gpus']]
    lines += [f'{"GPU":<13}{gpu}' for gpu in gpus or ['none seen by torch']]
    lines += ['', 'Selective scan, float32 outputs and gradients against float64 (* runs by default):']
    for row in report['backends']:
        where = f'{row["device"] or "":<6}{row["instruction_set"] or "":<10}'
        lines.append(f'{"*" if row["in_use"] else " "} {row["name"]:<11}{where}{row["status"]:<13}{row["found"]}')
    lines += [] if report['backends'] else ['  not checked, since mmsparx.ops cannot be imported']
    bad = [row for row in (*report['backends'], *report['checks']) if row['status'] not in ('ok', 'unavailable')]
    for row in bad:
        lines += ['', f'{row["status"]}: {row["name"]}: {row["found"]}']
        lines += [f'    mend: {row["mend"]}'] if row['mend'] else []
    return '\n'.join([*lines, '', f'status: {report["status"]}'])


def _absent(name: str, fork: bool) -> str:
    if name not in _VERSIONS:
        return 'none'
    if name not in _EXTRAS:
        return 'not installed'
    package = PROVIDERS[name][-1] if fork and name in PROVIDERS else f'"mmsparx[{_EXTRAS[name]}]"'
    return f'not installed; it comes with pip install {package}'
