"""A site's CA and certificates, made by the program ``openssl`` as docs/how-to/tls.md says."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

from app.node.peers import TlsPolicy

P256 = ("ec", "-pkeyopt", "ec_paramgen_curve:P-256")


def openssl(*arguments: object) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True, timeout=60)


@dataclass(frozen=True)
class Authority:
    """A CA, with its files in a folder."""

    folder: Path
    name: str = "site-ca"

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        subject = ("-subj", f"/CN={self.name}", "-days", 3650)
        openssl("req", "-x509", "-newkey", *P256, "-nodes", "-keyout", self.key, "-out", self.file, *subject)

    @property
    def file(self) -> Path:
        return self.folder / f"{self.name}.crt"

    @property
    def key(self) -> Path:
        return self.folder / f"{self.name}.key"

    def certify(
        self,
        name: str,
        days: int = 365,
        san: str = "IP:127.0.0.1,DNS:localhost",
        kind: tuple[str, ...] = P256,
        digest: str = "sha256",
    ) -> TlsPolicy:
        """A certificate with its key, as a peer of this site would be set up."""
        key, request, file = (self.folder / f"{name}.{ending}" for ending in ("key", "csr", "crt"))
        extension = ("-addext", f"subjectAltName={san}")
        openssl("req", "-newkey", *kind, "-nodes", "-keyout", key, "-subj", f"/CN={name}", *extension,
                "-out", request)  # fmt: skip
        openssl("x509", "-req", "-in", request, "-CA", self.file, "-CAkey", self.key, "-days", days,
                f"-{digest}", "-copy_extensions", "copy", "-out", file)  # fmt: skip
        return TlsPolicy(str(file), str(key), str(self.file))
