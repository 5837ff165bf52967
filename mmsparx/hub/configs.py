"""config.json: the arguments of a network's constructor as data, and back.

The file is data. It names a network, a token mixer and an aggregator by what they are registered as, and these names
alone lead to a class.
"""

import inspect
import json
import math
import types
import typing
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from mmengine.registry import Registry

from mmsparx.layers.norm import NORMS
from mmsparx.registry import lookup

MAX_BYTES = 2**20
MAX_DEPTH = 16
_SHOWN = 100  # characters of a value that a message shows
# JSON forms of an argument, by its type: the types that Python reads it as, and its name in messages.
_KINDS = {
    bool: ((bool,), 'true or false'),
    int: ((int,), 'an integer'),
    float: ((int, float), 'a number'),
    str: ((str,), 'a string'),
    Mapping: ((dict,), 'an object'),
    Sequence: ((list,), 'a list'),
    types.NoneType: ((types.NoneType,), 'null'),
}


def read_config(path: Path) -> dict:
    """The object in a JSON file.

    Raises:
        ValueError: The file is larger or nested more deeply than any config, no JSON, or holds something else; the
            message names it.
    """
    with open(path, 'rb') as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise ValueError(f'{path}: expected a config of at most {MAX_BYTES} bytes, got a larger file')
    try:
        config = json.loads(content, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ValueError(f'{path} is not JSON that is read here: {str(error)[:_SHOWN]}') from error
    if not isinstance(config, dict):
        raise ValueError(f'{path}: expected a JSON object of arguments, got {_shown(config)}')
    level: list = [config]
    for _ in range(MAX_DEPTH):
        inside = (x for outer in level for x in (outer.values() if isinstance(outer, dict) else outer))
        level = [x for x in inside if isinstance(x, (dict, list))]
    if level:
        raise ValueError(f'{path}: expected a config, got lists or objects within each other, {MAX_DEPTH} and deeper')
    return config


def _refuse_constant(name: str) -> None:
    raise ValueError(f'{name} is not a number of JSON')


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f'{text[:_SHOWN]}...'


def parameters_of(cls: type) -> dict[str, inspect.Parameter]:
    """The parameters of a class's constructor by name; with `**kwargs`, those of the constructor after it as well."""
    return _parameters(cls, inspect.Parameter.VAR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def defaults_of(cls: type) -> dict[str, object]:
    """The defaults of a class's constructor that JSON can hold, but for None."""
    given = ((name, p.default) for name, p in parameters_of(cls).items() if p.default is not p.empty)
    return {name: default for name, default in given if default is not None and _is_data(default)}


def bind(cls: type, args: Sequence[object], kwargs: Mapping[str, object]) -> dict[str, object]:
    """The arguments of a call of a class, by name; those that do not fit are left to the constructor's error."""
    return {**dict(zip(_parameters(cls, inspect.Parameter.VAR_POSITIONAL), args, strict=False)), **kwargs}


def _parameters(cls: type, goes_on: object, *kinds: object) -> dict[str, inspect.Parameter]:
    """Positional parameters, and those of further kinds; a parameter of the kind `goes_on` passes others on."""
    found: dict[str, inspect.Parameter] = {}
    for base in cls.__mro__:
        if '__init__' not in vars(base):
            continue
        _, *parameters = inspect.signature(base.__init__).parameters.values()
        wanted = (p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, *kinds))
        found |= {p.name: p for p in wanted if p.name not in found}
        if not any(p.kind is goes_on for p in parameters):
            break
    return found


def encode_arguments(arguments: Mapping[str, object], parts: Mapping[str, Registry]) -> dict[str, object]:
    """Arguments of a constructor -> data for JSON.

    Args:
        arguments: Arguments by name.
        parts: Registries of the parts that an argument is the config of. Their types become registered names.

    Raises:
        ValueError: An argument is not data, or a part is of a class that is not registered.
    """
    return {
        name: _encode(_named(value, name, parts[name]) if name in parts else value, name)
        for name, value in arguments.items()
    }


def _named(cfg: object, option: str, registry: Registry) -> object:
    if not isinstance(cfg, Mapping) or 'type' not in cfg:
        return cfg
    cls = lookup(registry, cfg['type'])
    name = next((name for name, other in registry.module_dict.items() if other is cls), None)
    if name is None:
        raise ValueError(
            f'{option}: {cls.__name__} is not registered, so that config.json cannot name it. Put '
            f'@mmsparx.registry.{registry.name.replace(" ", "_").upper()}S.register_module() before the class'
        )
    return {**cfg, 'type': name}


def _is_data(value: object) -> bool:
    try:
        _encode(value, '')
    except ValueError:
        return False
    return True


def _encode(value: object, place: str) -> object:
    if value is None or type(value) in (bool, int, str) or (type(value) is float and math.isfinite(value)):
        return value
    if hasattr(value, 'as_dict'):  # an Architecture, a StagePlan or a Style
        value = value.as_dict()
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: _encode(x, f'{place}.{key}') for key, x in value.items()}
    if isinstance(value, (list, tuple, range)):
        return [_encode(x, f'{place}[{i}]') for i, x in enumerate(value)]
    raise ValueError(
        f'{place}: expected finite numbers, strings, and lists and dicts of them, which config.json can hold, got '
        f'{_shown(value)} of {type(value).__name__}'
    )


def check_arguments(arguments: Mapping[str, object], parameters: Mapping[str, inspect.Parameter], source: str) -> None:
    """See that what a file gives are arguments of a constructor.

    Args:
        arguments: Arguments by name, as JSON has them.
        parameters: Parameters of the constructor that a file may give.
        source: Name of the file, for messages.

    Raises:
        ValueError: An argument is unknown, or of another type.
    """
    if unknown := [name for name in arguments if name not in parameters]:
        raise ValueError(
            f'{source}: unknown argument {", ".join(map(_shown, unknown))}; known ones: {", ".join(parameters)}'
        )
    for name, value in arguments.items():
        _check_kind(name, value, parameters[name].annotation, source)


def check_types(
    arguments: Mapping[str, object], parts: Mapping[str, Registry], omitted: Collection[str], source: str
) -> None:
    """See that what a file gives names registered parts alone, and no initial values.

    Args:
        arguments: Arguments by name.
        parts: Registries of the parts that an argument is the config of.
        omitted: Arguments that a file may not give, but for None.
        source: Name of the file, for messages.

    Raises:
        ValueError: A dict has a `type` that is not registered, or an argument is one of `omitted`.
    """
    for name, value in arguments.items():
        if name in omitted and value is not None:
            raise ValueError(f'{source}: {name} is not read from a file, whose weights are beside it; take it out')
        registry = parts.get(name)
        if registry is not None and isinstance(value, Mapping):
            registry.import_from_location()
            _check_name(f'{name}.type', value.get('type'), registry.module_dict, source)
        elif isinstance(value, Mapping) and not isinstance(value.get('type', ''), str):
            # Names of styles and batch norms, which the constructor looks up in a table.
            raise ValueError(f'{source}: expected {name}.type to be a name, got {_shown(value["type"])}')
        for place, kind in _types_inside(value, name):
            _check_name(place, kind, NORMS, source)


def _check_kind(name: str, value: object, annotation: object, source: str) -> None:
    """See that a value is of one of the types of an annotation that JSON has."""
    annotations = typing.get_args(annotation) if isinstance(annotation, types.UnionType) else (annotation,)
    kinds = (types.NoneType if x is None else typing.get_origin(x) or x for x in annotations)
    known = [_KINDS[kind] for kind in kinds if isinstance(kind, type) and kind in _KINDS]
    if known and not any(type(value) in allowed for allowed, _ in known):
        expected = ' or '.join(text for _, text in known)
        raise ValueError(f'{source}: expected {name} to be {expected}, got {_shown(value)}')


def _check_name(place: str, given: object, known: Collection[str], source: str) -> None:
    if not isinstance(given, str) or given not in known:
        raise ValueError(
            f'{source}: expected {place} to be a registered name, one of {", ".join(sorted(known))}, got '
            f'{_shown(given)}. A file names no other class; import the module that registers yours before'
        )


def _types_inside(value: object, place: str) -> Iterator[tuple[str, object]]:
    """Place and `type` of each dict within a value, but for the value itself."""
    if isinstance(value, Mapping):
        inside = [(f'{place}.{key}', x) for key, x in value.items()]
    else:
        inside = [(f'{place}[{i}]', x) for i, x in enumerate(value)] if isinstance(value, (list, tuple)) else []
    for name, x in inside:
        if isinstance(x, Mapping) and 'type' in x:
            yield f'{name}.type', x['type']
        yield from _types_inside(x, name)
