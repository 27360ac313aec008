"""The receiving process is killed while images come: what it acknowledged is there, and nothing twice."""

from __future__ import annotations

import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

from app.node.records.database import open_database
from app.node.records.inbox import Inbox
from tests.node.receive.images import STUDY, ct_slice, encoded
from tests.node.receive.wire import CONTEXT, in_one_pdu, store_command, wire

SERVE = """
import sys, time
from pathlib import Path
from app.node.peers import ReceivePolicy
from app.node.receive.scp import StoreScp
from app.node.records.database import open_database
from app.node.records.inbox import Inbox

folder = Path(sys.argv[1])
inbox = Inbox(folder / "inbox", open_database(f"sqlite:///{folder / 'node.sqlite'}"))
scp = StoreScp(ReceivePolicy(port=0, min_free_mb=0), inbox, lambda _: None)
scp.start()
print(scp.port, flush=True)
time.sleep(600)
"""
ASSOCIATIONS = 2


def send_until_killed(port: int, first: int, acknowledged: list[str], enough: threading.Event) -> None:
    """Every other image; the process is killed once there are enough."""
    with wire(port) as sender, suppress(ConnectionError):
        for number in range(first, 400, ASSOCIATIONS):
            image = ct_slice(number, size=64)
            sender.send(in_one_pdu(CONTEXT, store_command(image), encoded(image)))
            answer = sender.answer()
            if answer is None:
                return
            assert answer.Status == 0
            acknowledged.append(image.SOPInstanceUID)
            if len(acknowledged) >= 20:
                enough.set()


def test_what_was_acknowledged_survives_a_kill_and_what_was_not_is_there_once_at_most(tmp_path: Path) -> None:
    known: set[str] = set()
    for _ in range(2):  # the second start finds what the first kill left, and is killed too
        command = [sys.executable, "-c", SERVE, str(tmp_path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            port = int(process.stdout.readline())
            acknowledged: list[str] = []
            enough = threading.Event()
            senders = [
                threading.Thread(target=send_until_killed, args=(port, number, acknowledged, enough))
                for number in range(ASSOCIATIONS)
            ]
            for sender in senders:
                sender.start()
            assert enough.wait(60)
            process.kill()
            for sender in senders:
                sender.join()
        known.update(acknowledged)
    engine = open_database(f"sqlite:///{tmp_path / 'node.sqlite'}")
    inbox = Inbox(tmp_path / "inbox", engine)
    inbox.recover()
    kept = [row.sop_instance_uid for row in inbox.content(STUDY).rows]
    assert len(kept) == len(set(kept))
    assert known <= set(kept)
    assert len(kept) <= len(known) + 2 * ASSOCIATIONS
    assert inbox.content(STUDY).damaged() == 0
    assert inbox.studies()[0].conflicts == 0
    engine.dispose()
