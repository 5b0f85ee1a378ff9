"""Recipe files: YAML mappings from field names to values."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import typer
import yaml

from ..close_names import did_you_mean

_VARIABLE = re.compile(r"\$(?:(\w+)|\{([^}]*)\})")


class _Loader(yaml.SafeLoader):
    """Refuses keys that stand twice, of which PyYAML keeps the last without a word, as YAML itself has it."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} stands twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def read_recipe(path: Path, known: set[str], others: Mapping[str, set[str]], hint: str = "--config") -> dict[str, Any]:
    """Reads a recipe; `$NAME` and `${NAME}` in its strings are replaced by environment variables.

    A typer.BadParameter for the option or argument `hint` says if the file is missing or no YAML mapping, a key is not
    among the `known` (`others` are those of other commands by their name), or a variable is not set.
    """
    try:
        loaded = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except OSError as error:
        _fail(f"{path}: {error.strerror or error}.", hint)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        _fail(f"{path} is not YAML: {error}", hint)
    if loaded is None:
        return {}
    if not isinstance(loaded, dict):
        _fail(f"{path} must hold 'field: value' lines, found a {type(loaded).__name__}.", hint)
    recipe = {str(key): value for key, value in loaded.items()}
    unknown = [key for key in recipe if key not in known]
    if unknown:
        _fail(f"{path}: " + " ".join(_explain(key, known, others) for key in unknown), hint)
    return {key: _expand(value, f"{path}: {key}", hint) for key, value in recipe.items()}


def _explain(key: str, known: set[str], others: Mapping[str, set[str]]) -> str:
    commands = [command for command, keys in others.items() if key in keys]
    if commands:
        return f"{key!r} is a field of {' and '.join(commands)}, not of this command."
    return f"unknown key {key!r}.{did_you_mean(key.replace('-', '_'), sorted(known), cutoff=0.7)}"


def _expand(value: Any, where: str, hint: str) -> Any:
    if isinstance(value, str):
        missing = [name for match in _VARIABLE.findall(value) for name in match if name and name not in os.environ]
        if missing:
            _fail(f"{where} is {value!r}, but the environment variable {missing[0]} is not set.", hint)
        return os.path.expandvars(value)
    if isinstance(value, list):
        return [_expand(item, where, hint) for item in value]
    if isinstance(value, dict):
        return {key: _expand(item, where, hint) for key, item in value.items()}
    return value


def _fail(message: str, hint: str) -> NoReturn:
    raise typer.BadParameter(message, param_hint=hint)
