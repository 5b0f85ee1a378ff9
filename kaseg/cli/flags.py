"""Flags and recipe keys out of the fields of argument dataclasses. Nothing about a single field is written here.

This is our own because a recipe and its flags are read alike, which no library that we tried on our arguments does:

- `HfArgumentParser` (transformers 5.24): YAML is not converted (`1e-3` stays text), no `336,448`, no `null`,
  dictionaries as JSON only, and flags that are unknown or misspelled are refused without a close match.
- tyro 1.0: fields such as `dict[str, Any] | str | None` make subcommands or no parser at all, no `336,448`, no `null`.
- jsonargparse 4.53: no `--learning-rate`, no `336,448`, no `crop_size: 100`, and help without our texts and groups.
"""

import dataclasses
import inspect
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer
from rich.markup import escape
from transformers import TrainingArguments

from ..experiments.recipe import build_arguments
from .recipes import read_recipe
from .values import ValueType, convert, type_of

OUR_DEFAULTS_PANEL = "Training (transformers.TrainingArguments with our defaults)"
TRAINER_PANEL = "Trainer (transformers.TrainingArguments)"
# The commands have --resume instead.
_LEFT_OUT = {"resume_from_checkpoint"}
_USELESS = re.compile(r"^Deprecated|\(Deprecated\)|Not directly used by Trainer")
_SENTENCE_END = re.compile(r"(?<!e\.g)(?<!i\.e)(?<=\.)\s")


@dataclasses.dataclass(frozen=True)
class Option:
    """One field of an argument dataclass, as a flag and a recipe key, in its group (`panel`) of the help."""

    name: str
    kind: ValueType
    default: Any
    help: str
    hidden: bool
    panel: str

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def no_flag(self) -> str:
        return "--no-" + self.name.replace("_", "-")

    @property
    def full_help(self) -> str:
        """Help and default in rich's markup."""
        default = getattr(self.default, "value", self.default)
        if default is None or default == "" or default == []:
            return escape(self.help)
        text = json.dumps(default) if isinstance(default, dict | list) else str(default)
        return f"{escape(self.help)} [dim]{escape(f'[default: {text}]')}[/dim]".strip()


def options_of(parts: Sequence[type]) -> dict[str, Option]:
    """Every field of the dataclasses `parts` that can be written down, by name, in the order of the help."""
    options: list[Option] = []
    panels: dict[str, None] = {}
    for part in parts:
        hints = get_type_hints(part)
        part_panels = _panels(part)
        panels |= dict.fromkeys(part_panels.values())
        for item in dataclasses.fields(part):
            kind = type_of(hints[item.name])
            if not item.init or item.name.startswith("_") or item.name in _LEFT_OUT or not kind.has_text_form:
                continue
            panel = part_panels.get(item.name, TRAINER_PANEL)
            options.append(Option(item.name, kind, _default(item), *_help(item), panel))
    order = [*panels, TRAINER_PANEL]
    return {option.name: option for option in sorted(options, key=lambda option: order.index(option.panel))}


def build_app(
    parts: Sequence[type], run: Callable[..., None], description: str, elsewhere: Mapping[str, Sequence[type]]
) -> typer.Typer:
    """A command, with the help `description`, whose flags are the fields of the argument dataclasses `parts`; it calls
    `run` with one instance per part and `resume=`. `elsewhere` names the parts of other commands, for the message about
    a recipe of one of them."""
    options = options_of(parts)

    def command(**values: Any) -> None:
        config, resume = values.pop("config"), values.pop("resume")
        recipe = {} if config is None else _read(config, options, elsewhere)
        run(*build_arguments(parts, recipe | _given(options, values)), resume=resume)

    parameters = [*_own_parameters(), *(p for option in options.values() for p in _parameters(option))]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    app = typer.Typer(add_completion=False, rich_markup_mode="rich")
    app.command(help=description)(command)
    return app


def normalize_flags(args: Sequence[str]) -> list[str]:
    """`--learning_rate=0.1` as `--learning-rate=0.1`."""
    normal = []
    for arg in args:
        flag, equals, value = arg.partition("=")
        normal.append(flag.replace("_", "-") + equals + value if flag.startswith("--") else arg)
    return normal


def _own_parameters() -> list[inspect.Parameter]:
    config = Annotated[
        Path | None,
        typer.Option("--config", metavar="FILE", help="Recipe: a YAML file of the fields below, which flags override."),
    ]
    resume = Annotated[
        bool, typer.Option("--resume/--no-resume", help="Go on with an unfinished run in output_dir, or start anew.")
    ]
    return [_parameter("config", config, None), _parameter("resume", resume, True)]


def _parameters(option: Option) -> list[inspect.Parameter]:
    shown = typer.Option(
        option.flag,
        metavar="SWITCH" if option.kind.is_switch else option.kind.label,
        help=option.full_help,
        rich_help_panel=option.panel,
        hidden=option.hidden,
        show_default=False,
    )
    if option.kind.is_switch:
        # Two flags instead of typer's `--x/--no-x`, whose second column would leave no room for the help.
        hidden = typer.Option(option.no_flag, hidden=True)
        return [
            _parameter(option.name, Annotated[bool, shown], False),
            _parameter(f"no_{option.name}", Annotated[bool, hidden], False),
        ]
    if option.kind.item is not None:
        return [_parameter(option.name, Annotated[list[str] | None, shown])]
    return [_parameter(option.name, Annotated[str | None, shown])]


def _parameter(name: str, annotation: Any, default: Any = None) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _given(options: Mapping[str, Option], values: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that the command line gives."""
    given: dict[str, Any] = {}
    for name, option in options.items():
        value = values[name]
        if option.kind.is_switch:
            off = values[f"no_{name}"]
            if value and off:
                raise typer.BadParameter(f"{option.flag} and {option.no_flag} exclude each other.")
            if value or off:
                given[name] = value
        elif value is not None and value != []:
            # A list given once may be written out in that one text; given several times, each text is an item.
            alone = isinstance(value, list) and len(value) == 1
            given[name] = convert_field(value[0] if alone else value, option, option.flag)
    return given


def _read(config: Path, options: Mapping[str, Option], elsewhere: Mapping[str, Sequence[type]]) -> dict[str, Any]:
    others = {command: set(options_of(parts)) for command, parts in elsewhere.items()}
    recipe = read_recipe(config, set(options), others)
    return {name: convert_field(value, options[name], f"{name} in {config}") for name, value in recipe.items()}


def convert_field(value: Any, option: Option, where: str) -> Any:
    """`value`, from YAML or text, as the field takes it; a typer.BadParameter that names `where` if it does not."""
    try:
        return convert(value, option.kind)
    except ValueError as error:
        raise typer.BadParameter(f"{error}.", param_hint=where) from None


def _panels(part: type) -> dict[str, str]:
    """The group of each of a dataclass's own fields; those that it merely inherits from transformers are missing.

    A class's `help_groups` names the first field of each group; those declared after it belong to it, too.
    """
    fields = part.__dataclass_fields__  # type: ignore[attr-defined]
    if not issubclass(part, TrainingArguments):
        return dict.fromkeys(fields, part.__name__.removesuffix("Arguments"))
    panels: dict[str, str] = {}
    anew: list[str] = []
    for owner in part.__mro__[: part.__mro__.index(TrainingArguments)]:
        title = owner.__name__
        for name in inspect.get_annotations(owner):
            if name in TrainingArguments.__dataclass_fields__:
                anew.append(name)
            elif name in fields:
                title = vars(owner).get("help_groups", {}).get(name, title)
                panels.setdefault(name, title)
    return panels | dict.fromkeys(anew, OUR_DEFAULTS_PANEL)


def _default(item: dataclasses.Field) -> Any:
    if item.default_factory is not dataclasses.MISSING:
        return item.default_factory()
    return None if item.default is dataclasses.MISSING else item.default


def _help(item: dataclasses.Field) -> tuple[str, bool]:
    """The field's help, and whether it is to be hidden. A field declared anew without help keeps transformers'."""
    theirs = TrainingArguments.__dataclass_fields__.get(item.name)
    their_help = "" if theirs is None else theirs.metadata.get("help", "")
    ours = item.metadata.get("help", "")
    if ours and ours != their_help:
        return ours, False
    # transformers explains at length.
    text = " ".join(their_help.replace("%%", "%").split())
    return _SENTENCE_END.split(text, maxsplit=1)[0], bool(_USELESS.search(text))
