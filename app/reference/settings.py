"""docs/reference/settings.md, made from the settings' own records: every key, its default and its meaning."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from pydantic import ConfigDict, TypeAdapter

from app.settings import Settings

Schema = dict[str, Any]

INTRODUCTION = """# Settings

Every key of `app.yaml`. Made by `psma-node settings > docs/reference/settings.md`; do not edit.
A key that is left out has its default. An unknown key is an error that names the nearest known key.

`--set section.key=value` and `PSMA_NODE__SECTION__KEY=value` override the file; their values are YAML.
Where a setting is text, a value that is not YAML is taken as it stands: `--set "write.suv_unit={SUVbw}g/ml"`.
`PSMA_NODE__SECTION__KEY__FILE=path` takes the value from a file, as container hosts hand over secrets.
"""


@dataclass(frozen=True)
class DescribedSettings(Settings):
    """The settings with the docstring of each attribute, which take a second to read from the source."""

    __pydantic_config__ = ConfigDict(use_attribute_docstrings=True)


def settings_reference() -> str:
    """The whole page, Markdown."""
    schema = TypeAdapter(DescribedSettings).json_schema()
    records = schema["$defs"]
    parts = [INTRODUCTION]
    for section, reference in schema["properties"].items():
        [record] = _records_within(reference, records)
        parts.append(f"## {section}\n\n{_first_line(record)}\n\n{_table(record)}")
        for key, item in record["properties"].items():
            for inner in _records_within(item, records):
                parts.append(f"### {section}.{key}\n\n{_first_line(inner)}\n\n{_table(inner)}")
    return "\n".join(parts)


def _records_within(item: Schema, records: dict[str, Schema]) -> list[Schema]:
    """The records that a setting holds; an enumeration is a definition too, but has no properties."""
    names = re.findall(r'"#/\$defs/(\w+)"', json.dumps(item))
    return [records[name] for name in names if "properties" in records[name]]


def _first_line(record: Schema) -> str:
    return str(record["description"]).partition("\n")[0]


def _table(record: Schema) -> str:
    rows = ["| key | default | meaning |", "|---|---|---|"]
    for key, item in record["properties"].items():
        default = "required" if key in record.get("required", ()) else _default(item)
        meaning = " ".join(item["description"].split()).replace("|", "\\|")
        rows.append(f"| `{key}` | {default} | {meaning} |")
    return "\n".join(rows) + "\n"


def _default(item: Schema) -> str:
    if "default" not in item:
        return "below"  # a record, whose own table follows
    text = json.dumps(item["default"], separators=(",", ":"), ensure_ascii=False)
    return f"`{text}`".replace("|", "\\|")
