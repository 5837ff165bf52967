"""`--cfg-options`: values as they are typed, and keys that mean something."""

import ast
import difflib
import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from mmengine.config import Config, ConfigDict, DictAction
from mmengine.optim import DefaultOptimWrapperConstructor, OptimWrapper
from mmengine.runner import (
    EpochBasedTrainLoop,
    FlexibleRunner,
    IterBasedTrainLoop,
    LogProcessor,
    Runner,
    TestLoop,
    ValLoop,
)
from torch.utils.data import DataLoader

from mmsparx.engine.arguments import accepted_arguments, find_classes
from mmsparx.engine.common import named_dicts, type_name
from mmsparx.engine.layer_decay import LayerDecayOptimWrapperConstructor
from mmsparx.engine.run_hooks import WITHOUT


def parse_value(text: str) -> Any:
    """A value as mmengine reads it (numbers, True, None, lists, tuples), with the blanks in its strings; or a literal.

    Raises:
        ValueError: What has braces within brackets is no literal of Python, as a dict has to be.
    """
    text = text.strip()
    if '{' in text and text.startswith(('[', '(', '{')):  # mmengine knows no dicts
        try:
            return ast.literal_eval(text)
        except (SyntaxError, ValueError) as error:
            raise ValueError(f"expected a literal of Python, as [{{'type': 'EMAHook'}}], got {text}") from error
    text = text.strip('\'"')
    if ',' in text or (text[:1], text[-1:]) in (('[', ']'), ('(', ')')):
        text = re.sub(r'\s*,\s*', ',', text)
        text = re.sub(r'(?<=[\[(])\s+|\s+(?=[\])])', '', text)
    # mmengine drops blanks; a command line has no NUL.
    return _with_blanks(DictAction._parse_iterable(text.replace(' ', '\0')))


def _with_blanks(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return type(value)(map(_with_blanks, value))
    return value.replace('\0', ' ') if isinstance(value, str) else value


def apply_options(cfg: Config, options: Mapping[str, Any], allow_new_keys: bool = False) -> None:
    """Override settings of a config, changed in place.

    A key is known if the config has it, or if the class that is named beside it, the runner or the tools take it.

    Args:
        cfg: Config to change.
        options: Values by dotted key, with positions in lists as numbers.
        allow_new_keys: Whether other keys may be set as well.

    Raises:
        ValueError: A key is unknown, or leads into what is neither dict nor list; all of them are named, with the
            nearest known ones.
    """
    before = cfg._cfg_dict
    for key in options:
        _make_way(before, key)
    new = {key: _length_of_known_part(before, key.split('.')) for key in options}
    cfg.merge_from_dict(dict(options))
    if allow_new_keys:
        return
    problems = []
    for key, depth in new.items():
        parts = key.split('.')
        problems += list(_variable_without_effect(cfg, parts)) if depth else []
        for i in range(depth, len(parts)):
            known = _known_keys(cfg, before, parts[:i], given=parts[i], is_new=i > depth)
            if known is not None and parts[i] not in known:
                problems.append(f'{key}: {_advice(cfg, before, parts, i, known)}')
                break
    if problems:
        raise ValueError(
            '--cfg-options: '
            + '\n  '.join(problems)
            + '\nA key that is read elsewhere, as by code of your own, is set with --allow-new-keys'
        )


def _make_way(cfg: Mapping, key: str) -> None:
    """Put dicts where a key leads through None, and refuse what it cannot lead through."""
    node, parts = cfg, key.split('.')
    for i, part in enumerate(parts):
        place = '.'.join(parts[:i])
        if isinstance(node, list):
            if not part.isdigit() or int(part) >= len(node):
                raise ValueError(
                    f'--cfg-options: {key}: {place} is a list; expected a position from 0 to {len(node) - 1} in it, '
                    f'got {part!r}'
                )
            part = int(part)
        elif not isinstance(node, Mapping):
            raise ValueError(f'--cfg-options: {key}: {place} is {node!r}, and has no settings of its own')
        elif part not in node:
            return
        if node[part] is None and i + 1 < len(parts):
            node[part] = ConfigDict()
        node = node[part]


def _length_of_known_part(cfg: Mapping, parts: list[str]) -> int:
    node = cfg
    for i, part in enumerate(parts):
        if isinstance(node, Mapping) and part not in node:
            return i
        node = node[part if isinstance(node, Mapping) else int(part)]
    return len(parts)


# Top-level keys of a config that mmengine's runners and this package's tools read.
_AT_THE_TOP = {
    *inspect.signature(Runner.__init__).parameters,
    *inspect.signature(FlexibleRunner.__init__).parameters,
    *('runner_type', 'custom_imports', 'tta_model', 'tta_pipelines', 'model_wrapper_cfg', 'sync_bn', 'compile'),
    *('find_unused_parameters', 'activation_checkpointing', 'efficient_conv_bn_eval', 'init_weights_for_test_or_val'),
    WITHOUT,
} - {'self', 'cfg'}
_OF_CONFIGS = {'type', '_scope_', '_delete_'}
_OF_LOADERS = {
    *inspect.signature(DataLoader.__init__).parameters,
    *('dataset', 'num_batch_per_epoch'),
} - {'self'}
_OF_OPTIM_WRAPPER = {'constructor', 'paramwise_cfg'}
_DEFAULT_CONSTRUCTOR = DefaultOptimWrapperConstructor.__name__
_DEFAULT_PARAMWISE = {
    *('custom_keys', 'bias_lr_mult', 'bias_decay_mult', 'norm_decay_mult', 'dwconv_decay_mult', 'flat_decay_mult'),
    *('bypass_duplicate', 'dcn_offset_lr_mult'),
}
# The options of each constructor, by its name; others take any.
_OF_PARAMWISE = {
    _DEFAULT_CONSTRUCTOR: _DEFAULT_PARAMWISE,
    LayerDecayOptimWrapperConstructor.__name__: _DEFAULT_PARAMWISE | {'layer_decay_rate'},
}
_DEFAULT_HOOKS = {'runtime_info', 'timer', 'sampler_seed', 'logger', 'param_scheduler', 'checkpoint'}
# Besides the arguments of the classes, what the code takes that builds them; by patterns of keys.
_ALSO = {
    r'(default_hooks\.\w+|custom_hooks\.\d+)': {'priority'},
    r'optim_wrapper': _OF_OPTIM_WRAPPER,
    r'param_scheduler(\.\d+|\.\w+\.\d+)?': {'convert_to_iter_based'},
    r'visualizer|visualizer\.vis_backends\.\d+': {'name'},
    r'.*\bnorm_cfg': {'requires_grad'},
}
# The settings of dicts without a type, by patterns of their keys.
_UNTYPED: dict[str, Callable[[], set[str]]] = {
    r'default_hooks': lambda: _DEFAULT_HOOKS,
    r'(train|val|test)_dataloader': lambda: _OF_LOADERS,
    r'train_cfg': lambda: {'by_epoch', *_arguments(EpochBasedTrainLoop), *_arguments(IterBasedTrainLoop)},
    r'val_cfg': lambda: _arguments(ValLoop),
    r'test_cfg': lambda: _arguments(TestLoop),
    r'optim_wrapper': lambda: _arguments(OptimWrapper),
    r'optim_wrapper\.clip_grad': lambda: _arguments(torch.nn.utils.clip_grad_norm_),
    r'log_processor': lambda: _arguments(LogProcessor),
    r'randomness': lambda: _arguments(Runner.set_randomness),
    r'auto_scale_lr': lambda: {'enable', 'base_batch_size'},
    r'env_cfg': lambda: {'cudnn_benchmark', 'mp_cfg', 'dist_cfg', 'resource_limit'},
    r'env_cfg\.mp_cfg': lambda: {'mp_start_method', 'opencv_num_threads'},
    r'custom_imports': lambda: {'imports', 'allow_failed_imports'},
    r'.*\bmetainfo': lambda: {'classes', 'palette'},
    r'.*\bfilter_cfg': lambda: {'filter_empty_gt', 'min_size'},
    r'model\.test_cfg': lambda: {'mode', 'crop_size', 'stride'},  # of mmseg's models
}
# Dicts that hold what names a user has: of parameters, of arguments of other software, of the weights' options, which
# the networks check themselves.
_FREE = re.compile(
    r'optim_wrapper\.paramwise_cfg\.custom_keys|env_cfg\.dist_cfg|.*\b(backend_args|init_cfg)|strategy.*'
)


def _arguments(target: Callable) -> set[str]:
    return accepted_arguments(target) or set()


def _known_keys(cfg: Config, before: Mapping, parts: list[str], given: str, is_new: bool) -> set[str] | None:
    """The keys that are known at a place of a config; None for any.

    Args:
        cfg: Config with the options.
        before: Config without them.
        parts: Place, as the parts of its key.
        given: Key that is asked for.
        is_new: Whether the options made the place itself.
    """
    if not parts:
        return {*before, *_AT_THE_TOP}
    place = '.'.join(parts)
    node = _at(cfg._cfg_dict, parts)
    if _FREE.fullmatch(place):
        return None
    if place == 'default_hooks' and type_name(node[given]):
        return None
    held = set() if is_new else set(_at(before, parts))
    taken = _taken(cfg, place, node)
    if taken is None and (type_name(node) or not held):
        return None  # its builder reports errors, or there is nothing to compare with
    return held | (taken or set()) | _also(place)


def _taken(cfg: Config, place: str, node: Mapping) -> set[str] | None:
    """The settings of a dict, by its type or its place; None where they are not known."""
    if place.startswith('optim_wrapper') and _constructor(cfg) not in _OF_PARAMWISE:
        return None
    if place == 'optim_wrapper.paramwise_cfg':
        return _OF_PARAMWISE[_constructor(cfg)]
    if place == 'optim_wrapper.clip_grad':
        by_value = node.get('type') == 'value'
        return _arguments(torch.nn.utils.clip_grad_value_ if by_value else torch.nn.utils.clip_grad_norm_)
    if type_name(node) is None:
        return next((names() for pattern, names in _UNTYPED.items() if re.fullmatch(pattern, place)), None)
    classes = find_classes(node['type'], place.partition('.')[0], cfg.get('default_scope'))
    accepted = [accepted_arguments(cls) for cls in classes]
    return set().union(*accepted) if accepted and None not in accepted else None


def _also(place: str) -> set[str]:
    return _OF_CONFIGS.union(*(names for pattern, names in _ALSO.items() if re.fullmatch(pattern, place)))


def _constructor(cfg: Config) -> str:
    given = cfg.get('optim_wrapper', {}).get('constructor', _DEFAULT_CONSTRUCTOR)
    return (given if isinstance(given, str) else given.__name__).rpartition('.')[2]


def _at(node: Any, parts: Sequence[str]) -> Any:
    for part in parts:
        node = node[part if isinstance(node, Mapping) else int(part)]
    return node


def _variable_without_effect(cfg: Config, parts: list[str]) -> Iterator[str]:
    if parts[0] in _AT_THE_TOP:
        return
    used = [key for key in _dotted_keys(cfg._cfg_dict) if key.endswith(f'.{parts[0]}')]
    yield (
        f'{".".join(parts)}: {parts[0]} is a variable of the config file, which nothing reads once the file is read. '
        f'Set what it is used for{f", as {used[0]}" if used else ""}'
    )


def _advice(cfg: Config, before: Mapping, parts: list[str], depth: int, known: set[str]) -> str:
    """The fault of a key at one of its parts, and the nearest valid key."""
    place, name, rest = '.'.join(parts[:depth]), parts[depth], parts[depth + 1 :]
    if place and (kind := type_name(_at(cfg._cfg_dict, parts[:depth]))):
        said = f'{place} ({kind}) has no {name!r}'
    else:
        said = f'{place or "the config"} has no {name!r}'
    if near := difflib.get_close_matches(name, sorted(known), n=1):
        return f'{said}; did you mean {".".join([*parts[:depth], near[0], *rest])}?'
    every = list(_dotted_keys(before))
    ending = [key for key in every if key.endswith(f'.{parts[-1]}')]
    if near := ending[:3] or difflib.get_close_matches('.'.join(parts), every, n=1):
        return f'{said}; did you mean {" or ".join(near)}?'
    return f'{said}; known there: {", ".join(sorted(known))}'


def _dotted_keys(cfg: Mapping) -> Iterator[str]:
    for place, node in named_dicts(cfg, ''):
        yield from (f'{place}.{name}'.lstrip('.') for name in node if '.' in f'{place}.{name}'.lstrip('.'))


_CHECKED = (
    *('default_hooks', 'custom_hooks', 'train_cfg', 'val_cfg', 'test_cfg', 'val_evaluator', 'test_evaluator'),
    *('optim_wrapper', 'param_scheduler', 'log_processor', 'visualizer'),
)


def check_arguments(cfg: Config) -> None:
    """Fail before a model is built where a hook, loop, metric, optimizer or schedule is given what it does not take.

    Built by mmengine, some take any argument, and fail in use or do nothing with it; others are built last.

    Raises:
        TypeError: Names each setting, its class and the nearest argument.
    """
    problems = []
    for section in _CHECKED:
        for place, node in named_dicts(cfg.get(section), section):
            free = place == 'default_hooks' or _FREE.fullmatch(place)  # a config may name hooks as it likes
            taken = None if free else _taken(cfg, place, node)
            if taken is None:
                continue
            known = taken | _also(place)
            for name in sorted(set(node) - known):
                near = difflib.get_close_matches(name, sorted(known), n=1)
                kind = type_name(node)
                advice = f'did you mean {near[0]!r}?' if near else f'it takes {", ".join(sorted(taken))}'
                problems.append(f'{place}{f" ({kind})" if kind else ""} takes no {name!r}; {advice}')
    if problems:
        raise TypeError('in the config: ' + '\n  '.join(problems))
