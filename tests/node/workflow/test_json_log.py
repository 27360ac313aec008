"""The log holds facts, and no patient."""

from __future__ import annotations

import ast
import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest

from app.errors import RetryLaterError
from app.node.watch.log import FIELDS, JsonLineFormatter

NAME = "ZYXWVUT^QUINTUS"

ROOT = Path(__file__).resolve().parents[3]


def formatted(logger: str, message: str, *arguments: object, **more: object) -> dict[str, object]:
    """A record as the log would hold it."""
    error = more.pop("error", None)
    info = (type(error), error, None) if isinstance(error, BaseException) else None
    record = logging.LogRecord(logger, logging.INFO, "/a/b.py", 7, message, arguments, info)
    record.__dict__.update(more)
    line = JsonLineFormatter().format(record)
    assert "\n" not in line
    content = json.loads(line)
    assert isinstance(content, dict)
    return content


def test_listed_fields_are_written_and_others_are_not() -> None:
    line = formatted("app.node.x", "study complete", study="1.2.3", patient_name=NAME)
    assert line["study"] == "1.2.3"
    assert line["event"] == "study complete"
    assert NAME not in json.dumps(line)


@pytest.mark.parametrize("logger", ["pydicom", "pynetdicom.acse", "highdicom.base", "py.warnings", "monai"])
def test_message_of_a_library_that_sees_headers_is_withheld(logger: str) -> None:
    line = formatted(logger, f"invalid value {NAME}")
    assert NAME not in json.dumps(line)
    assert "b.py:7" in str(line["event"])


def test_message_of_a_foreign_exception_is_withheld_and_ours_is_written() -> None:
    assert formatted("app.x", "failed", error=ValueError(NAME))["error"] == "ValueError"
    ours = formatted("app.x", "failed", error=RetryLaterError("the disk is full"))
    assert ours["error"] == "RetryLaterError: the disk is full"


def test_frames_say_where_without_saying_what() -> None:
    try:
        raise KeyError(NAME)
    except KeyError:
        record = logging.LogRecord("app.x", logging.ERROR, "p", 1, "failed", (), sys.exc_info())
    line = JsonLineFormatter().format(record)
    assert NAME not in line
    assert "test_json_log.py" in line


MALFORMED = f"""
import logging, sys, threading
from pathlib import Path
import pydicom
from sqlalchemy import insert
from app.node.records.database import open_database
from app.node.watch.log import configure_logging
from app.node.records.results import RegisteredResult

folder = Path(sys.argv[1])
configure_logging(folder / "node.jsonl", "DEBUG")
import highdicom, pynetdicom  # what they do to logging at their import comes after ours
dataset = pydicom.dcmread(folder / "bad.dcm", force=True)
for element in dataset:
    str(element.value)
dataset.PatientBirthDate = "{NAME}"
for name in ("pydicom", "pynetdicom.events", "highdicom.seg", "somebody.else"):
    logging.getLogger(name).error("found %s", "{NAME}")
def end_badly():
    raise ValueError("{NAME}")
thread = threading.Thread(target=end_badly)
thread.start()
thread.join()
try:
    with open_database("sqlite://").begin() as connection:
        connection.execute(insert(RegisteredResult).values(patient_id="{NAME}"))
except Exception as error:
    logging.getLogger("dbos").error(f"a step failed: {{error}}", exc_info=error)
"""


def test_malformed_header_puts_no_name_into_the_log_or_on_the_terminal(tmp_path: Path) -> None:
    elements = {  # PN in a UI, a DS, an IS, a DA and a TM; an unknown character set; too long a PN
        (0x0008, 0x0005): ("CS", NAME),
        (0x0008, 0x0018): ("UI", NAME),
        (0x0008, 0x0020): ("DA", NAME),
        (0x0008, 0x0030): ("TM", NAME),
        (0x0010, 0x0010): ("PN", NAME * 9),
        (0x0010, 0x1030): ("DS", NAME),
        (0x0020, 0x0013): ("IS", NAME),
        (0x0028, 0x0010): ("US", NAME),
    }
    (tmp_path / "bad.dcm").write_bytes(b"".join(_element(*item) for item in elements.items()))
    command = [sys.executable, "-W", "always", "-c", MALFORMED, str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    log = (tmp_path / "node.jsonl").read_text()
    assert ended.returncode == 0, ended.stderr
    assert "message withheld" in log
    assert "a thread ended" in log
    assert NAME not in log
    assert NAME not in ended.stdout + ended.stderr
    assert all(isinstance(json.loads(line), dict) for line in log.splitlines())


def _element(tag: tuple[int, int], content: tuple[str, str]) -> bytes:
    vr, value = content
    encoded = value.encode().ljust(len(value) + len(value) % 2)
    group, number = (part.to_bytes(2, "little") for part in tag)
    return group + number + vr.encode() + len(encoded).to_bytes(2, "little") + encoded


def logged_names(source: str) -> set[str]:
    """Keys of the dicts that a module's functions give to ``extra``, be it by a name."""
    found: set[str] = set()
    for function in ast.walk(ast.parse(source)):
        if not isinstance(function, ast.FunctionDef):
            continue
        calls = [node for node in ast.walk(function) if isinstance(node, ast.Call)]
        extras = [given.value for call in calls for given in call.keywords if given.arg == "extra"]
        names = {node.id for extra in extras for node in ast.walk(extra) if isinstance(node, ast.Name)}
        for node in ast.walk(function):
            alone = [getattr(node, "target", None)]
            targets = node.targets if isinstance(node, ast.Assign) else alone
            parts = [part for one in targets if one for part in ast.walk(one)]
            named = {part.id for part in parts if isinstance(part, ast.Name)}
            if isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign) and named & names and node.value:
                extras.append(node.value)
        dicts = [node for extra in extras for node in ast.walk(extra) if isinstance(node, ast.Dict)]
        found |= {key.value for one in dicts for key in one.keys if isinstance(key, ast.Constant)}
    return found


def test_every_field_that_we_log_is_written() -> None:
    logged = {
        name: path
        for path in [*(ROOT / "app").rglob("*.py"), *(ROOT / "operators").rglob("*.py")]
        for name in logged_names(path.read_text(encoding="utf-8"))
    }
    assert len(logged) > 20
    assert {name: path for name, path in logged.items() if name not in FIELDS} == {}
