"""Write what an image is made of as CycloneDX 1.6 JSON: Python packages, Debian packages, models.

    python MAP/bill_of_materials.py --python VENV/bin/python --base DIR --models DIR \\
        --manifests DIR --out FILE

``--base`` has ``status`` of dpkg, ``os-release`` and ``doc`` (``/usr/share/doc``) of the base image,
``--manifests`` app.json. A Debian package whose licences are not written for a machine to read has none here.

``cyclonedx-py`` lists the Python packages; it runs outside the environment that it describes. The same
image gives the same file: no serial number, no time.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from debian.deb822 import Deb822
from debian_licences import licences

VERSION = SchemaVersion.V1_6


def python_packages(python: Path) -> dict[str, Any]:
    """The bill of a Python environment alone."""
    done = subprocess.run(
        [sys.executable, "-m", "cyclonedx_py", "environment", "--output-reproducible",
         "--spec-version", VERSION.to_version(), "--output-format", "JSON", str(python)],
        capture_output=True, check=True, text=True,
    )  # fmt: skip
    bill: dict[str, Any] = json.loads(done.stdout)
    return bill


def distribution(os_release: str) -> tuple[str, str]:
    """Name and version as in a package URL: ``debian``, ``12``."""
    fields = dict(line.split("=", 1) for line in os_release.splitlines() if "=" in line)
    return fields["ID"].strip('"'), fields["VERSION_ID"].strip('"')


def system_packages(base: Path) -> Iterator[dict[str, Any]]:
    """A component for each installed package of dpkg's status file."""
    system, release = distribution((base / "os-release").read_text("utf-8"))
    status = (base / "status").read_text("utf-8")
    for fields in Deb822.iter_paragraphs(status, use_apt_pkg=False):
        if fields["Status"] != "install ok installed":
            continue
        name, version = fields["Package"], fields["Version"]
        purl = f"pkg:deb/{system}/{quote(name)}@{quote(version)}?arch={fields['Architecture']}"
        purl += f"&distro={system}-{release}&upstream={quote(fields.get('Source', name).split()[0])}"
        found = licences(base / "doc", name)
        component = {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}
        yield {**component, "licenses": found} if found else component


def models(folder: Path) -> Iterator[dict[str, Any]]:
    """A component for each model, with the digest of its card, which has those of its weights."""
    for card in sorted(folder.glob("*/model.yaml")):
        digest = hashlib.sha256(card.read_bytes()).hexdigest()
        yield {
            "type": "machine-learning-model",
            "bom-ref": f"model:{card.parent.name}",
            "name": card.parent.name,
            "hashes": [{"alg": "SHA-256", "content": digest}],
        }


def subject(version: str) -> dict[str, str]:
    """What the bill is of."""
    purl = f"pkg:generic/psma-node@{version}"
    return {"type": "container", "bom-ref": purl, "name": "psma-node", "version": version, "purl": purl}


def main() -> None:
    """Write the whole bill; ends with an error when it is not valid CycloneDX."""
    parser = argparse.ArgumentParser()
    for name in ("python", "base", "models", "manifests", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    given = parser.parse_args()
    bill = python_packages(given.python)
    version = json.loads((given.manifests / "app.json").read_text("utf-8"))["version"]
    bill["metadata"]["component"] = subject(version)
    bill["components"] += [*system_packages(given.base), *models(given.models)]
    text = json.dumps(bill, indent=2, sort_keys=True) + "\n"
    fault = JsonStrictValidator(VERSION).validate_str(text)
    if fault is not None:
        sys.exit(f"not CycloneDX: {fault}")
    given.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
