"""The arguments of the classes that a config names, as far as their code shows them."""

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterator

from mmengine import registry as roots
from mmengine.config import Config
from mmengine.registry import DefaultScope, Registry

from mmsparx.engine.common import named_dicts
from mmsparx.registry import AGGREGATORS, TOKEN_MIXERS

# Registries in which the types of a setting are looked up, by the first part of its key.
_OF_MODELS = (roots.MODELS, roots.TASK_UTILS, roots.MODEL_WRAPPERS, TOKEN_MIXERS, AGGREGATORS)
_OF_LOADERS = (roots.DATASETS, roots.TRANSFORMS, roots.DATA_SAMPLERS, roots.FUNCTIONS)
_OF_HOOKS = (roots.HOOKS, roots.TRANSFORMS, roots.MODELS)
_REGISTRIES = {
    **dict.fromkeys(('model', 'tta_model', 'data_preprocessor', 'model_wrapper_cfg'), _OF_MODELS),
    **dict.fromkeys(('train_dataloader', 'val_dataloader', 'test_dataloader', 'tta_pipelines'), _OF_LOADERS),
    **dict.fromkeys(('default_hooks', 'custom_hooks'), _OF_HOOKS),
    **dict.fromkeys(('train_cfg', 'val_cfg', 'test_cfg'), (roots.LOOPS,)),
    **dict.fromkeys(('val_evaluator', 'test_evaluator'), (roots.METRICS, roots.EVALUATOR)),
    'optim_wrapper': (roots.OPTIM_WRAPPERS, roots.OPTIMIZERS),
    'param_scheduler': (roots.PARAM_SCHEDULERS,),
    'visualizer': (roots.VISUALIZERS, roots.VISBACKENDS),
    'log_processor': (roots.LOG_PROCESSORS,),
}


def find_classes(name: str | Callable, section: str, scope: str | None) -> list[Callable]:
    """The classes, or functions, that a type in a config may name.

    Args:
        name: Type, as the config has it.
        section: First part of the setting's key, such as 'model'.
        scope: Default scope of the config.

    Returns:
        None or one as a rule; several where registries of one section have the name.
    """
    if not isinstance(name, str):
        return [name]
    found = []
    with DefaultScope.overwrite_default_scope(scope):
        for registry in _REGISTRIES.get(section, ()):
            cls = _get(registry, name, scope)
            found += [cls] if cls is not None and cls not in found else []
    return found


def find_hook(name: str | type, scope: str | None) -> type | None:
    """The class of a hook by its type in a config; None if it is not known."""
    if not isinstance(name, str):
        return name
    with DefaultScope.overwrite_default_scope(scope):
        return _get(roots.HOOKS, name, scope)


def find_backbone(cfg: Config) -> tuple[str, type] | None:
    """The place of the first backbone of this package in a config's model, and its class; None without one."""
    for place, node in named_dicts(cfg.get('model'), 'model'):
        for cls in find_classes(node['type'], 'model', cfg.get('default_scope')) if 'type' in node else ():
            if hasattr(cls, 'weight_names'):
                return place, cls
    return None


def _get(registry: Registry, name: str, scope: str | None) -> Callable | None:
    if registry in (TOKEN_MIXERS, AGGREGATORS):  # of no library's scope
        registry.import_from_location()
        return registry.module_dict.get(name)
    with registry.switch_scope_and_registry(scope) as switched:
        return switched.get(name)


def accepted_arguments(target: Callable) -> set[str] | None:
    """The names of the arguments that a class or function takes by keyword; None where it may take any.

    Arguments that `__init__` collects (`**kwargs`) and passes on to its base are the base's. What it collects and does
    not use has no effect, and is not accepted. Where it does anything else with them, any name is accepted.
    """
    initialisers = [target]
    if isinstance(target, type):
        initialisers = [vars(cls)['__init__'] for cls in target.__mro__ if '__init__' in vars(cls)]
    names: set[str] = set()
    for function in initialisers:
        try:
            parameters = inspect.signature(function).parameters.values()
        except (TypeError, ValueError):  # of C code
            return None
        names |= {each.name for each in parameters if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)}
        collected = [each.name for each in parameters if each.kind is each.VAR_KEYWORD]
        if not collected:
            break
        uses = list(_uses(function, collected[0]))
        if _ANYHOW in uses:
            return None
        names |= set(uses) - {_PASSED_ON}
        if _PASSED_ON not in uses:
            break
    return names - {'self'}


# Uses of collected arguments besides reading one of a given name.
_PASSED_ON, _ANYHOW = object(), object()


def _uses(function: Callable, collected: str) -> Iterator[object]:
    """The uses of the arguments that a function collects: names that it reads, and the two above."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(function))))
    except (OSError, TypeError, SyntaxError):  # there is no source, or it is part of an expression
        yield _ANYHOW
        return
    parents = {child: parent for parent in ast.walk(tree) for child in ast.iter_child_nodes(parent)}
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Name) and node.id == collected):
            continue
        parent = parents[node]
        match parent:
            case ast.keyword(arg=None) if _calls_initialiser(parents[parent]):
                yield _PASSED_ON
            case ast.Attribute(attr='get' | 'pop' | 'setdefault'):
                call = parents[parent]
                first = call.args[0] if isinstance(call, ast.Call) and call.args else None
                yield first.value if isinstance(first, ast.Constant) else _ANYHOW
            case ast.Subscript(slice=ast.Constant(value=str(name))) if parent.value is node:
                yield name
            case ast.Compare(left=ast.Constant(value=str(name)), ops=[ast.In() | ast.NotIn()]):
                yield name
            case _:
                yield _ANYHOW


def _calls_initialiser(call: ast.AST) -> bool:
    return isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr == '__init__'
