"""The site's settings: app.yaml, then the environment, then ``--set``, read once into a frozen record.

The record of each section, with its defaults, stands in the layer that uses it (``SelectionPolicy`` and so
on); this module composes them. An unknown key is an error that names its source, itself and the nearest key.

Precedence, later wins: defaults, app.yaml, ``PSMA_NODE__SECTION__KEY=value``, ``--set section.key=value``.
Values in the environment and in ``--set`` are YAML; where a setting is text, what is not YAML is that text.
``PSMA_NODE__SECTION__KEY__FILE=path`` takes the value from a file, as container hosts hand over secrets.
docs/decisions/0011-settings.md says why these sources are read here and not by pydantic-settings.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import hashlib
import json
import os
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from app.dicom.reading.policy import LoadPolicy
from app.dicom.results.policy import WritePolicy
from app.domain.findings.policy import QuantifyPolicy
from app.domain.ranges import Range, Ranged
from app.domain.selection.policy import SelectionPolicy
from app.errors import MisconfiguredError
from app.imaging.registration.policy import AlignPolicy
from app.inference.policy import MAP_MODEL_PATH, SegmentPolicy
from app.node.peers import DeliverPolicy, ReceivePolicy, TlsPolicy
from app.node.policy import NodePolicy

ENVIRONMENT_PREFIX = "PSMA_NODE__"
FILE_SUFFIX = "__FILE"
SHIPPED_CONFIG = Path(__file__).resolve().parents[1] / "app.yaml"

RESULT_SECTIONS = ("select", "load", "align", "segment", "quantify", "write")
"""Sections that can change a result; the other sections (ports, folders) leave its UIDs as they are."""

SECRET_OR_LOCAL_KEYS = {"segment": ("models_dir", "device", "shadow_models")}
"""Keys of result sections that say where, not what, or that leave results as they are."""

UNKNOWN_KEY, KEY_NOT_TEXT = "unexpected_keyword_argument", "invalid_key"
"""pydantic's names for a key that a record does not have, and for one that is not text (``1``, ``yes``)."""


@dataclass(frozen=True)
class ApplicationInfo(Ranged):
    """What the MONAI Application Package says about itself."""

    name: str = "psma-node"
    """Name of the package."""
    title: str = "PSMA PET/CT and 177Lu SPECT/CT lesion segmentation"
    """What the package does, in words."""
    timeout_s: Annotated[int, Range(0, 31_536_000)] = 14400
    """Seconds after which the container ends a ``process``, with exit code 124; 0 for no limit. The value is
    packed with the image; HOLOSCAN_TIMEOUT changes it for a run."""


@dataclass(frozen=True)
class Resources(Ranged):
    """What a host sets aside for the MONAI Application Package."""

    cpu: Annotated[int, Range(1, 1024)] = 2
    """Number of cores."""
    memory: str = "6Gi"
    """Main memory."""
    gpu: Annotated[int, Range(0, 64)] = 0
    """Number of GPUs. ``segment.device`` decides which of them are used (docs/reference/gpu.md)."""
    gpu_memory: str = "8Gi"
    """Memory of each GPU."""


@dataclass(frozen=True)
class Settings:
    """app.yaml, validated: one section for each stage of the chain, and the node's own."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    application: ApplicationInfo = field(default_factory=ApplicationInfo)
    resources: Resources = field(default_factory=Resources)
    tls: TlsPolicy = field(default_factory=TlsPolicy)
    receive: ReceivePolicy = field(default_factory=ReceivePolicy)
    select: SelectionPolicy = field(default_factory=SelectionPolicy)
    load: LoadPolicy = field(default_factory=LoadPolicy)
    align: AlignPolicy = field(default_factory=AlignPolicy)
    segment: SegmentPolicy = field(default_factory=SegmentPolicy)
    quantify: QuantifyPolicy = field(default_factory=QuantifyPolicy)
    write: WritePolicy = field(default_factory=WritePolicy)
    deliver: DeliverPolicy = field(default_factory=DeliverPolicy)
    node: NodePolicy = field(default_factory=NodePolicy)

    @property
    def digest(self) -> str:
        """SHA-256 over every setting that can change a result; part of the SR and of derived UIDs."""
        sections = settings_adapter().dump_python(self, mode="json", include=set(RESULT_SECTIONS))
        for section, keys in SECRET_OR_LOCAL_KEYS.items():
            for key in keys:
                sections[section].pop(key, None)
        return hashlib.sha256(json.dumps(sections, sort_keys=True).encode()).hexdigest()


@functools.cache
def settings_adapter() -> TypeAdapter[Settings]:
    """pydantic's view of the settings: it validates, dumps and describes them."""
    return TypeAdapter(Settings)


def load_settings(path: Path | None = None, overrides: Sequence[str] = ()) -> Settings:
    """Read the settings.

    Args:
        path: app.yaml; without it ``PSMA_NODE_CONFIG``, ``./app.yaml``, or the shipped file.
        overrides: ``section.key=value`` items, values in YAML.

    Raises:
        MisconfiguredError: the file is missing or not YAML, a key is unknown, or a type or value is wrong.
    """
    file = path or _default_path()
    tree = _read_yaml(file)
    origins: dict[str, str] = {}
    for dotted, value, origin in [*_from_environment(os.environ), *map(_parse_override, overrides)]:
        _place(tree, dotted, value, origin)
        origins[dotted] = origin
    try:
        return settings_adapter().validate_python(tree)
    except ValidationError as error:
        words = (f"{_origin(item, origins, file.name)}: {_describe(item)}" for item in error.errors())
        raise MisconfiguredError(*dict.fromkeys(words)) from error


def _default_path() -> Path:
    if named := os.environ.get("PSMA_NODE_CONFIG"):
        return Path(named)
    here = Path("app.yaml")
    return here if here.is_file() else SHIPPED_CONFIG


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise MisconfiguredError(f"cannot read the settings file {file}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise MisconfiguredError(f"{file} is not valid YAML: {_yaml_problem(error)}") from error
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise MisconfiguredError(f"{file}: found a {type(tree).__name__}, expected sections (key: value)")
    return tree


def _from_environment(environment: Mapping[str, str]) -> list[tuple[str, Any, str]]:
    found: list[tuple[str, Any, str]] = []
    if environment.get(MAP_MODEL_PATH):
        found.append(("segment.models_dir", environment[MAP_MODEL_PATH], MAP_MODEL_PATH))
    for name, text in sorted(environment.items()):
        if name.startswith(ENVIRONMENT_PREFIX):
            key = name.removesuffix(FILE_SUFFIX)
            dotted = key.removeprefix(ENVIRONMENT_PREFIX).lower().replace("__", ".")
            if key != name and key in environment:
                raise MisconfiguredError(f"both {key} and {name} are set; keep one of them")
            value = _parsed(text, name, dotted) if key == name else _from_file(text, name, dotted)
            found.append((dotted, value, name))
    return found


def _from_file(path: str, origin: str, dotted: str) -> Any:
    """The content of a file: text as it stands, without the line end that an editor leaves; else YAML."""
    try:
        text = Path(path).read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        words = getattr(error, "strerror", None) or "not UTF-8 text"
        raise MisconfiguredError(f"{origin}: cannot read {path}: {words}") from error
    return text if _is_text(dotted) else _parsed(text, origin, dotted)


def _parse_override(item: str) -> tuple[str, Any, str]:
    dotted, equals, text = item.partition("=")
    if not equals or "." not in dotted:
        raise MisconfiguredError(f"--set {item}: expected section.key=value, for example receive.port=11112")
    return dotted.strip(), _parsed(text, f"--set {item}", dotted.strip()), f"--set {dotted}"


def _parsed(text: str, origin: str, dotted: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        if _is_text(dotted):
            return text  # such as {SUVbw}g/ml, which would need quotes within the shell's
        raise MisconfiguredError(f"{origin}: the value is not valid YAML: {_yaml_problem(error)}") from error


def _yaml_problem(error: Exception) -> str:
    """Where and what, on one line; without the text around it, which may be a password."""
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    return str(error) if mark is None else f"line {mark.line + 1}, column {mark.column + 1}: {problem}"


def _place(tree: dict[str, Any], dotted: str, value: Any, origin: str) -> None:
    """Set one value; a whole record in its place is replaced, not merged."""
    *parents, last = dotted.split(".")
    node = tree
    for key in parents:
        child = node.setdefault(key, {})
        if child is None:
            child = node[key] = {}
        if not isinstance(child, dict):
            raise MisconfiguredError(f"{origin}: {key} is a value, not a section")
        node = child
    node[last] = value


def _unknown_key(item: ErrorDetails) -> str:
    """The key that a record does not have, and the nearest that it has."""
    parents = [part for part in item["loc"][:-1] if isinstance(part, str)]
    key = str(item["loc"][-1] if item["type"] == UNKNOWN_KEY else item["input"])
    known = [each.name for each in dataclasses.fields(_record_within(_kind_of(parents)))]
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.4)
    hint = f"nearest: {near[0]}" if near else f"known: {', '.join(known)}"
    place = [str(part) for part in item["loc"][:-1]]
    return f"unknown key {'.'.join([*place, key])} ({hint})"


def _is_text(dotted: str) -> bool:
    """Whether that setting is text, one of several words, or a path."""
    shape = _kind_of(dotted.split("."))
    kinds = typing.get_args(shape) if isinstance(shape, types.UnionType) else (shape,)
    return any(isinstance(kind, type) and issubclass(kind, (str, Path)) for kind in kinds)


def _kind_of(keys: Iterable[str]) -> Any:
    """The annotation of a setting; ``None`` when there is no such setting."""
    shape: Any = Settings
    for key in keys:
        record = _record_within(shape)
        shape = typing.get_type_hints(record).get(key) if record else None
    return shape


def _record_within(annotation: Any) -> Any:
    """The settings record in ``T``, ``T | None`` or ``tuple[T, ...]``; ``None`` when there is none."""
    if dataclasses.is_dataclass(annotation):
        return annotation
    inner = (_record_within(arg) for arg in typing.get_args(annotation))
    return next((found for found in inner if found is not None), None)


def _origin(item: ErrorDetails, origins: Mapping[str, str], file: str) -> str:
    """Where a wrong value was set; of a section whose values contradict each other, all who set one."""
    place = _place_of(item)
    for dotted, origin in origins.items():
        if f"{place}.".startswith(f"{dotted}."):
            return origin
    within = [origin for dotted, origin in origins.items() if dotted.startswith(f"{place}.")]
    return " with ".join(within if within and item["type"] == UNKNOWN_KEY else [file, *within])


def _place_of(item: ErrorDetails) -> str:
    return ".".join(str(part) for part in item["loc"])


SECRETS = ("database_url", "smtp_password", "url")
"""Keys whose values are never quoted: they hold a password, or a token."""

EXPECTED = {
    "dataclass_type": "expected a section (key: value)",
    "float_parsing": "expected a number",
    "float_type": "expected a number",
    "int_parsing": "expected a whole number",
    "int_type": "expected a whole number",
    "int_from_float": "expected a whole number",
    "bool_parsing": "expected true or false",
    "bool_type": "expected true or false",
    "tuple_type": "expected a list",
    "string_type": "expected text",
}
"""What pydantic's commonest errors mean to someone who writes YAML."""


def _describe(item: ErrorDetails) -> str:
    place = _place_of(item)
    if item["type"] in (UNKNOWN_KEY, KEY_NOT_TEXT):
        return _unknown_key(item)
    if item["type"] == "missing":
        return f"{place}: missing"
    message = EXPECTED.get(item["type"], item["msg"].removeprefix("Value error, "))
    message = message.replace("Input should be", "expected")
    found = item["input"]
    # a whole section may hold a secret too
    is_quoted = not isinstance(found, dict) and item["loc"][-1] not in SECRETS
    return f"{place}: found {found!r}, {message}" if is_quoted else f"{place}: {message}"
