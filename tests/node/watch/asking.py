"""Asks a node how it is, as a kubelet would."""

from __future__ import annotations

from http.client import HTTPConnection


def ask(port: int, path: str) -> tuple[int, str]:
    """Status and body; raises OSError when nobody answers."""
    connection = HTTPConnection("127.0.0.1", port, timeout=20.0)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()
