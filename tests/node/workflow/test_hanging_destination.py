"""A PACS that accepts the connection and says nothing, at a node with all its parts."""

from __future__ import annotations

import socket
from collections.abc import Callable

from tests.node.workflow.fake_node import KINDS, derived_uid
from tests.node.workflow.peers import FakePacs, NodeProcess, wait_until


def test_a_destination_that_says_nothing_holds_up_no_other(
    pacs: FakePacs, new_node: Callable[..., NodeProcess]
) -> None:
    """Each of its tries lasts ten seconds; none of three studies waits for one at the other."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        place = {"name": "silent", "ae_title": "SILENT", "host": "127.0.0.1", "port": silent.getsockname()[1]}
        node = new_node(pacs, destinations=[place]).start()
        studies = [node.send_study(number) for number in (1, 2, 3)]
        wanted = {derived_uid(study, kind, 1): 1 for study in studies for kind in KINDS}
        wait_until(lambda: pacs.received == wanted, "the other has everything")

        def states() -> set[tuple[str, str]]:
            return {(one.destination, one.state) for each in node.statuses() for one in each.deliveries}

        wait_until(lambda: ("pacs", "pending") not in states(), "that is written down")
        assert states() == {("pacs", "done"), ("silent", "pending")}
        assert {status.state for status in node.statuses()} == {"delivering"}
        node.kill()
