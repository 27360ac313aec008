"""What Debian says a package is licensed under, from ``/usr/share/doc/PACKAGE/copyright``.

python-debian reads the files that are written for a machine (DEP-5,
https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/); each ``License`` of a ``Files`` paragraph
counts. The licences are those of the package's source, of which the package may hold a part.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from debian.copyright import Copyright, NotMachineReadableError

FORMAT = "copyright-format/1.0"

_GNU = {
    f"{family}-{short}{plus}": f"{family}-{version}-{'or-later' if plus else 'only'}"
    for family, versions in {
        "GPL": {"1": "1.0", "2": "2.0", "3": "3.0"},
        "LGPL": {"2": "2.0", "2.1": "2.1", "3": "3.0"},
        "AGPL": {"3": "3.0"},
        "GFDL": {"1.2": "1.2", "1.3": "1.3"},
    }.items()
    for short, version in versions.items()
    for plus in ("", "+")
}
_SAME = (
    "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "BSD-4-Clause", "BSL-1.0", "CC0-1.0", "CC-BY-3.0",
    "CC-BY-4.0", "CC-BY-SA-3.0", "CC-BY-SA-4.0", "ISC", "MPL-1.1", "MPL-2.0", "OFL-1.1", "Zlib",
)  # fmt: skip
SPDX: Mapping[str, str] = {
    **{debian.lower(): spdx for debian, spdx in _GNU.items()},
    **{name.lower(): name for name in _SAME},
    "expat": "MIT",
}
"""Debian's short name in small letters, and SPDX's. Not here: MIT, BSD, Artistic, X11, each several texts."""


def licences(documents: Path, package: str) -> list[dict[str, object]]:
    """CycloneDX licences of a package, each once, in order; empty where its file is free text or not there.

    Args:
        documents: a copy of ``/usr/share/doc``.
        package: its name there.
    """
    file = documents / package / "copyright"
    names = declared(file.read_text("utf-8", "replace")) if file.is_file() else set()
    found = dict.fromkeys(_known(name) for name in sorted(names))
    return [{"license": {kind: name, "acknowledgement": "declared"}} for kind, name in found]


def declared(text: str) -> set[str]:
    """Short names, or expressions of them, as the file has them; not strict, as packages omit fields."""
    try:
        copyright_file = Copyright(text.splitlines(), strict=False)
    except NotMachineReadableError:
        return set()
    if FORMAT not in (copyright_file.header.format or ""):
        return set()  # a draft of the format
    found = (paragraph.license for paragraph in copyright_file.all_files_paragraphs())
    return {" ".join(licence.synopsis.split()) for licence in found if licence} - {""}


def _known(name: str) -> tuple[str, str]:
    """SPDX's identifier, or a name: ``BSD-3-clause`` and ``BSD-3-Clause`` are one licence."""
    spdx = SPDX.get(name.lower())
    return ("id", spdx) if spdx else ("name", name)
