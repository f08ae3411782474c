"""Configuration as trees of frozen dataclasses: override, validate, dump, compare.

A configuration is a dataclass beside the component it configures; a run is a Python function that returns
one. JSON is only a dump of that tree. Unknown keys are refused with the nearest match, and values must fit
the annotation: int, float, bool, str, Literal, tuple, dict[int, ...], unions, nested dataclasses.
"""

import dataclasses
import difflib
import json
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypeVar, Union

T = TypeVar("T")


class ConfigError(ValueError):
    """A configuration that cannot be; the message is one line and names the key."""


def nearest(word: str, choices: Iterable[str]) -> str:
    """' Did you mean X?' or the list of choices: the tail of every message about an unknown name."""
    choices = sorted(choices)
    close = difflib.get_close_matches(word, choices, n=1, cutoff=0.5)
    return f"did you mean '{close[0]}'?" if close else f"choose from: {', '.join(choices)}"


def first_line(error: BaseException) -> str:
    """What an error says, in one line: for messages that pass on another library's."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def to_dict(config: Any) -> Any:
    """The tree as JSON-ready values; integer keys become strings."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return {field.name: to_dict(getattr(config, field.name)) for field in dataclasses.fields(config)}
    if isinstance(config, Mapping):
        return {str(key): to_dict(value) for key, value in config.items()}
    if isinstance(config, (tuple, list)):
        return [to_dict(value) for value in config]
    return config


def from_dict(kind: type[T], values: Mapping[str, Any], path: str = "") -> T:
    """Build `kind` from JSON values. Missing keys take their defaults; ConfigError for unknown ones, for
    missing ones without a default, and for values of another type."""
    hints = typing.get_type_hints(kind)
    names = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    where = f" in '{path}'" if path else ""
    arguments = {}
    for key, value in values.items():
        if key not in names:
            raise ConfigError(f"unknown configuration key '{key}'{where}; {nearest(key, names)}")
        arguments[key] = convert(value, hints[key], f"{path}.{key}" if path else key)
    missing = [
        name
        for name, field in names.items()
        if name not in arguments
        and field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ConfigError(f"missing configuration key '{missing[0]}'{where}")
    return kind(**arguments)


def override(config: T, assignments: Iterable[str]) -> T:
    """Apply 'path.to.field=value' strings, e.g. 'moe.experts=1' or 'moe.experts.16=4'. Values are JSON, or a
    bare word, or numbers separated by commas for tuples. ConfigError for what is no such string, an unknown
    field, or a value that does not fit it."""
    tree = to_dict(config)
    for assignment in assignments:
        path, separator, text = assignment.partition("=")
        if not separator:
            raise ConfigError(f"'{assignment}' is not an override; write path.to.field=value")
        _assign(tree, type(config), path.strip().split("."), _parse(text.strip()), path.strip())
    return from_dict(type(config), tree)


def diff(left: Any, right: Any) -> list[str]:
    """Lines 'path: left -> right' for every leaf that differs."""
    a, b = dict(_leaves(to_dict(left))), dict(_leaves(to_dict(right)))
    return [
        f"{key}: {a.get(key, '(absent)')} -> {b.get(key, '(absent)')}"
        for key in sorted(a.keys() | b.keys())
        if a.get(key, ...) != b.get(key, ...)
    ]


def convert(value: Any, annotation: Any, path: str) -> Any:
    """`value` as the annotated type, or ConfigError."""
    origin = typing.get_origin(annotation)
    if origin in (Union, types.UnionType):
        return _convert_union(value, typing.get_args(annotation), path)
    if origin is Literal:
        choices = typing.get_args(annotation)
        if value not in choices:
            names = [str(choice) for choice in choices]
            raise ConfigError(f"{path}={value!r} is not a choice; {nearest(str(value), names)}")
        return value
    if origin is tuple:
        items = value.split(",") if isinstance(value, str) else value
        if not isinstance(items, (list, tuple)):
            items = [items]
        inner = typing.get_args(annotation)[0]
        return tuple(convert(_parse(i) if isinstance(i, str) else i, inner, path) for i in items)
    if origin is dict:
        if not isinstance(value, Mapping):
            raise ConfigError(f'{path}={value!r} should be a table such as {{"8": 4}}')
        key_kind, value_kind = typing.get_args(annotation)
        return {_convert_key(k, key_kind, path): convert(v, value_kind, path) for k, v in value.items()}
    if dataclasses.is_dataclass(annotation):
        if not isinstance(value, Mapping):
            raise ConfigError(f"{path}={value!r} should be a table of settings")
        return from_dict(typing.cast(type, annotation), value, path)
    return _convert_scalar(value, annotation, path)


def _convert_scalar(value: Any, annotation: Any, path: str) -> Any:
    if annotation is type(None) and value is None:
        return None
    if annotation is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if annotation is int and isinstance(value, int) and not isinstance(value, bool):
        return value
    if annotation in (str, bool) and isinstance(value, annotation):
        return value
    expected = getattr(annotation, "__name__", str(annotation))
    raise ConfigError(f"{path}={value!r} should be of type {expected}")


def _convert_union(value: Any, members: tuple[Any, ...], path: str) -> Any:
    if isinstance(value, Mapping):  # then only a table can be meant, and its complaint is the useful one
        tables = (m for m in members if typing.get_origin(m) is dict or dataclasses.is_dataclass(m))
        members = tuple(tables) or members
    for member in members:
        try:
            return convert(value, member, path)
        except ConfigError as error:
            last = error
    raise last


def _convert_key(key: Any, kind: type, path: str) -> Any:
    try:
        return kind(key)
    except ValueError:
        raise ConfigError(f"{path}: key {key!r} should be of type {kind.__name__}") from None


def _parse(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return {"True": True, "False": False, "None": None}.get(text, text)


def _assign(tree: dict, kind: Any, keys: list[str], value: Any, path: str) -> None:
    """Put `value` at `keys`, checking each name on the way against the dataclass it belongs to."""
    key, rest = keys[0], keys[1:]
    if dataclasses.is_dataclass(kind):
        names = [field.name for field in dataclasses.fields(kind)]
        if key not in names:
            raise ConfigError(f"unknown configuration key '{key}' in '{path}'; {nearest(key, names)}")
        kind = typing.get_type_hints(kind)[key]
    if not rest:
        tree[key] = value
    elif isinstance(tree.get(key), dict):
        _assign(tree[key], kind, rest, value, path)
    else:
        raise ConfigError(f"'{path}': '{key}' is a single value here; write {key}=... for the whole field")


def _leaves(tree: Any, path: str = "") -> Iterable[tuple[str, Any]]:
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from _leaves(value, f"{path}.{key}" if path else key)
    else:
        yield path, tree
