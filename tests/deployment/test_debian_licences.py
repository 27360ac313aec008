"""Debian's copyright files as licences of the bill of materials; tests/map looks at a whole one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.deployment.test_map_files import script

debian = script("debian_licences.py")

HEADER = "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\nUpstream-Name: x\n"


def licences_of(folder: Path, text: str) -> list[dict[str, str]]:
    """What is said of a package with this copyright file."""
    (folder / "x").mkdir()
    (folder / "x" / "copyright").write_text(text)
    return [item["license"] for item in debian.licences(folder, "x")]


@pytest.mark.parametrize(
    ("short", "expected"),
    [
        ("GPL-2+", {"id": "GPL-2.0-or-later"}),
        ("LGPL-2.1", {"id": "LGPL-2.1-only"}),
        ("Expat", {"id": "MIT"}),
        ("BSD-3-clause", {"id": "BSD-3-Clause"}),
        ("MIT", {"name": "MIT"}),  # Debian's name for several texts
        ("public-domain", {"name": "public-domain"}),
        ("GPL-2+ or  Artistic", {"name": "GPL-2+ or Artistic"}),
        ("GPL-3+ with GCC exception", {"name": "GPL-3+ with GCC exception"}),
    ],
)
def test_a_licence_is_spdx_s_where_that_is_plain_and_debian_s_name_else(
    tmp_path: Path, short: str, expected: dict[str, str]
) -> None:
    text = f"{HEADER}\nFiles: *\nCopyright: someone\nLicense: {short}\n The text: as it stands.\n"
    assert licences_of(tmp_path, text) == [expected | {"acknowledgement": "declared"}]


def test_each_licence_of_files_is_told_once_in_order(tmp_path: Path) -> None:
    names = ("ISC", "Expat", "ISC", "isc")
    paragraphs = "".join(f"\nFiles: {name}\nlicense: {name}\n" for name in names)
    text = f"{HEADER}License: GPL-3+\n{paragraphs}\nLicense: Zlib\n whose files are not in this package\n"
    assert [item["id"] for item in licences_of(tmp_path, text)] == ["MIT", "ISC"]


def test_a_licence_that_debian_spells_in_two_ways_is_told_once(tmp_path: Path) -> None:
    paragraphs = "".join(f"\nFiles: {name}\nLicense: {name}\n" for name in ("GPL-2+", "gpl-2+"))
    assert [item["id"] for item in licences_of(tmp_path, HEADER + paragraphs)] == ["GPL-2.0-or-later"]


@pytest.mark.parametrize(
    "text", ["", "This is free software, see GPL-2.\n", f"{HEADER}\nFiles: *\nLicense:\n"]
)
def test_of_a_file_that_no_machine_can_read_nothing_is_said(tmp_path: Path, text: str) -> None:
    assert licences_of(tmp_path, text) == []


def test_of_a_package_without_a_file_nothing_is_said(tmp_path: Path) -> None:
    assert debian.licences(tmp_path, "x") == []
