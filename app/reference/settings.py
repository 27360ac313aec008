"""docs/settings.md, made from the settings' own classes: every key, its default, what it means."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import re
import textwrap
import typing
from collections.abc import Iterator
from typing import Any

from pydantic import TypeAdapter

from app.settings import Settings, dataclass_within

_ATTRIBUTE = re.compile(r"^    (?P<names>\w+(?:, \w+)*): (?P<text>.*(?:\n {8,}.*)*)", re.MULTILINE)

INTRODUCTION = """# Settings

Every key of `app.yaml`. Made by `psma-node settings > docs/settings.md`; do not edit.
A key that is left out has the default; an unknown key is an error that names the nearest.
`--set section.key=value` and `PSMA_NODE__SECTION__KEY=value` override the file; values are YAML.
What is no YAML is taken as it stands where text is due: `--set "write.suv_unit={SUVbw}g/ml"`.
`PSMA_NODE__SECTION__KEY__FILE=path` takes the value from a file, as container hosts hand over secrets.
"""


def settings_reference() -> str:
    """The whole page, Markdown."""
    defaults = Settings()
    parts = [INTRODUCTION]
    for section in dataclasses.fields(Settings):
        policy = getattr(defaults, section.name)
        summary = (inspect.getdoc(type(policy)) or "").split("\n", maxsplit=1)[0]
        parts.append(f"## {section.name}\n\n{summary}\n\n{_table(type(policy), policy)}")
        parts += [
            f"Items of `{section.name}.{key}`:\n\n{_table(shape, None)}"
            for key, shape in _nested(type(policy))
        ]
    return "\n".join(parts)


def _table(shape: type, instance: Any) -> str:
    meanings = dict(_meanings(shape))
    rows = ["| key | default | meaning |", "|---|---|---|"]
    for item in dataclasses.fields(shape):
        default = _default(item) if instance is None else getattr(instance, item.name)
        rows.append(f"| `{item.name}` | {_shown(default)} | {meanings.get(item.name, '')} |")
    return "\n".join(rows) + "\n"


def _default(item: dataclasses.Field[Any]) -> Any:
    if item.default is not dataclasses.MISSING:
        return item.default
    return item.default_factory() if item.default_factory is not dataclasses.MISSING else dataclasses.MISSING


def _shown(value: Any) -> str:
    if value is dataclasses.MISSING:
        return "required"
    text = TypeAdapter(Any).dump_json(value).decode()
    return f"`{text}`".replace("|", "\\|")


def _nested(shape: type) -> Iterator[tuple[str, type]]:
    for name, annotation in typing.get_type_hints(shape).items():
        inner = dataclass_within(annotation)
        if inner is not None:
            yield name, inner


def _meanings(shape: type) -> Iterator[tuple[str, str]]:
    """From the ``Attributes:`` of the class docstring, or from the string after a field."""
    for match in _ATTRIBUTE.finditer((inspect.getdoc(shape) or "").partition("Attributes:")[2]):
        for name in match["names"].split(", "):
            yield name, _one_line(match["text"])
    [definition] = ast.parse(textwrap.dedent(inspect.getsource(shape))).body
    body = typing.cast("ast.ClassDef", definition).body
    for field, after in itertools.pairwise(body):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(after, ast.Expr)
            and isinstance(after.value, ast.Constant)
        ):
            yield field.target.id, _one_line(str(after.value.value))


def _one_line(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
