"""The report of an environment, as data and as text."""

import sys
from collections.abc import Mapping

from mmsparx.doctor.clashes import STATUSES, find_clashes, install_torch
from mmsparx.doctor.environment import PROVIDERS, Environment

_VERSIONS = ('torch', 'torchvision', 'numpy', 'mmengine', 'mmcv', 'mmdet', 'mmseg', 'mmpretrain', 'timm', 'setuptools')


def make_report(env: Environment) -> dict:
    """The object that `--json` writes; see `mmsparx.doctor`."""
    checks = [vars(finding) for finding in find_clashes(env)]
    backends = [_judged(env, row) for row in env.backends]
    statuses = {row['status'] for row in (*checks, *backends)}
    versions = {name: _version(env, name) for name in _VERSIONS}
    if env.torch:
        versions['torch'] = env.torch['version']  # with its build, as in 2.11.0+cpu
    return {
        'status': max(statuses & set(STATUSES), key=STATUSES.index),
        'python': sys.executable,
        'versions': {
            'mmsparx': env.versions.get('mmsparx'),
            'python': env.python,
            **versions,
            'cuda': env.torch and env.torch['cuda'],
        },
        'gpus': env.torch['gpus'] if env.torch else [],
        'backends': backends,
        'ort_library': env.torch and env.torch['ort_library'],
        'checks': checks,
    }


def _version(env: Environment, name: str) -> str | None:
    usual = PROVIDERS.get(name, (name,))[0]
    found = [env.versions[x] if x == usual else f'{env.versions[x]} ({x})' for x in env.providers(name)]
    return ', '.join(found) or None


def _judged(env: Environment, row: Mapping) -> dict:
    entry = {key: row[key] for key in ('name', 'device', 'instruction_set', 'in_use')}
    if row['missing'] is not None:
        return entry | {'status': 'unavailable', 'found': row['missing'], 'fix': row['fix']}
    if row['failed'] is None:
        return entry | {'status': 'ok', 'found': row['message'], 'fix': ''}
    fix = 'export MMSPARX_SCAN_BACKEND=reference' if row['name'] != 'reference' else install_torch(env)
    return entry | {'status': 'error', 'found': row['failed'], 'fix': fix}


def as_text(report: dict) -> str:
    """The report for a reader: what there is, the backends, then what needs attention."""
    versions = dict(report['versions'])
    lines = [f'mmsparx {versions.pop("mmsparx")}, Python {versions.pop("python")} ({report["python"]})', '']
    lines += [f'{name:<13}{version or "none"}' for name, version in versions.items()]
    gpus = [f'{gpu["name"]}, capability {gpu["capability"]}, {gpu["memory_gib"]} GiB' for gpu in report['gpus']]
    lines += [f'{"GPU":<13}{gpu}' for gpu in gpus or ['none seen by torch']]
    lines += ['', 'Selective scan, float32 outputs and gradients against float64 (* runs by default):']
    for row in report['backends']:
        where = f'{row["device"]:<6}{row["instruction_set"] or "":<10}'
        lines.append(f'{"*" if row["in_use"] else " "} {row["name"]:<11}{where}{row["status"]:<13}{row["found"]}')
    lines += [] if report['backends'] else ['  not checked, since mmsparx.ops cannot be imported']
    if library := report['ort_library']:
        status = ', '.join(filter(None, [library['status'], library['found']]))
        lines += ['', f'Library of the scans for onnxruntime: {status}']
    for row in (*report['backends'], *report['checks']):
        if row['status'] not in ('ok', 'unavailable'):
            lines += ['', f'{row["status"]}: {row["name"]}: {row["found"]}']
            lines += [f'    fix: {row["fix"]}'] if row['fix'] else []
    return '\n'.join([*lines, '', f'status: {report["status"]}'])
