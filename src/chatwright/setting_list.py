"""The settings of a recipe as a list: for docs/settings.md, and to name the nearest known one after a typo."""

from __future__ import annotations

import difflib
import json
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

_HEAD = """# Settings

Made by `chatwright schema --markdown`. Defaults are those of Llama 2 (7B) where the paper gives a number. A recipe file changes them,
`key=value` on the command line changes both. An unknown key is an error, and so is a setting that would be ignored."""
_COLUMNS = ("| Setting | Type | Default | Meaning |", "| --- | --- | --- | --- |")


@dataclass(frozen=True, slots=True)
class Setting:
    """A setting by its dotted key. `kind` is "section" where it only holds others; `default` is as a recipe would write it."""

    key: str
    kind: str
    default: str
    description: str


def list_settings(model: type[BaseModel], prefix: str = "", values: BaseModel | None = None) -> list[Setting]:
    """Every setting below `model`, each section before what is in it. `values` holds the defaults if not those of the class."""
    settings = []
    for name, field in model.model_fields.items():
        default = getattr(values, name) if values else field.get_default()
        shown = "required" if field.is_required() else default if isinstance(default, str) else _json(default)
        section = _section(field.annotation)
        settings.append(Setting(prefix + name, "section" if section else _kind(field.annotation), shown, field.description or ""))
        if section:
            settings += list_settings(section, f"{prefix}{name}.", default if isinstance(default, BaseModel) else None)
    return settings


def nearest_setting(model: type[BaseModel], key: str) -> str:
    """The known key most like an unknown one: in the same section if one is close, else anywhere, else in the same section after all."""
    known = [setting.key for setting in list_settings(model)]
    section, _, name = key.rpartition(".")
    anywhere = {k.rpartition(".")[2]: k for k in reversed(known)}
    siblings = {k.rpartition(".")[2]: k for k in known if k.rpartition(".")[0] == section} or anywhere
    if by_initials := [k for n, k in siblings.items() if name == "".join(word[0] for word in n.split("_"))]:
        return by_initials[0]  # lr
    for names, cutoff in ((siblings, 0.6), (anywhere, 0.75), (siblings, 0.0)):
        if near := difflib.get_close_matches(name, names, n=1, cutoff=cutoff):
            return names[near[0]]
    raise AssertionError("cutoff 0 finds something")


def settings_as_markdown(model: type[BaseModel]) -> str:
    """A page of tables, one a section of the recipe."""
    settings = list_settings(model)
    parts = [_HEAD, *_table("Recipe", [s for s in settings if "." not in s.key and s.kind != "section"])]
    for section in (s for s in settings if "." not in s.key and s.kind == "section"):
        title = f"{section.key}: {section.description}"
        parts += _table(
            title, [s for s in settings if s.key.startswith(f"{section.key}.") and (s.kind != "section" or s.default == "null")]
        )
    return "\n".join(parts) + "\n"


def _table(title: str, settings: list[Setting]) -> list[str]:
    rows = [
        f"| `{s.key}` | {s.kind} | {s.default if s.default == 'required' else f'`{s.default}`'} | {s.description.replace('|', '/')} |"
        for s in settings
    ]
    return ["", f"## {title}", "", *_COLUMNS, *rows]


def _section(annotation: Any) -> type[BaseModel] | None:
    """The settings class that a field holds, if any."""
    kinds = (annotation, *get_args(annotation))
    return next((t for t in kinds if isinstance(t, type) and issubclass(t, BaseModel)), None)


def _kind(annotation: Any) -> str:
    """A field's type in words."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return ", ".join(f"`{choice}`" for choice in inner)
    if origin in (Union, UnionType):
        return " or ".join(_kind(kind) for kind in inner)
    if origin is Annotated:
        return _kind(inner[0])
    if origin is list:
        return f"list of {_kind(inner[0])}"
    if origin is tuple:
        return f"{len(inner)} numbers"
    if origin is dict:
        return "number by name"
    return {int: "whole number", float: "number", str: "text", bool: "true or false", type(None): "null"}[annotation]


def _json(value: Any) -> str:
    return json.dumps(value.model_dump(mode="json") if isinstance(value, BaseModel) else value)
