"""Check app.json and pkg.json of a folder against their schemas; exit code 1 and a line for each fault.

python MAP/check_manifests.py DIR
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from jsonschema import Draft202012Validator

SCHEMAS = Path(__file__).resolve().parent / "schema"


def faults(manifest: object, schema_name: str) -> list[str]:
    """What a manifest lacks or has too much, a line each."""
    schema = json.loads((SCHEMAS / schema_name).read_text(encoding="utf-8"))
    found = Draft202012Validator(schema).iter_errors(manifest)
    return [f"{'/'.join(map(str, error.absolute_path)) or 'manifest'}: {error.message}" for error in found]


def main(folder: Path) -> int:
    """Look at both."""
    lines = []
    for name in ("app", "pkg"):
        manifest = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
        lines += [f"{name}.json: {fault}" for fault in faults(manifest, f"{name}.schema.json")]
    sys.stderr.write("".join(f"{line}\n" for line in lines))
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
