"""What happens to a node and around it in a soak; most of it is that of :mod:`tests.faults.trials`."""

from __future__ import annotations

import json
import random
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from http.client import HTTPException
from typing import TYPE_CHECKING

from tests.faults.trials import DISK_IS_FULL, FAULTS
from tests.node.receive.wire import association_request
from tests.node.watch.asking import ask
from tests.node.workflow.peers import wait_until

if TYPE_CHECKING:
    from tests.soak.world import SoakWorld

Disturbance = Callable[["SoakWorld", random.Random], Iterator[None]]
"""As :data:`tests.faults.trials.Fault`: before its ``yield`` it begins, after it all is well."""

SHARED = (DISK_IS_FULL, "database is busy", "PACS is away", "PACS is full")
"""Of the faults of trials; the clock of a soak is real, since retention counts days by it."""

SILENT_CONNECTIONS = 40

NONSENSE = (
    b"GET / HTTP/1.1\r\nHost: node\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    association_request()[:60],
    association_request().replace(b"PSMA_NODE", b"ELSEWHERE"),
    association_request()[:10] + bytes(32) + association_request()[42:],
    b"",
)


def _pacs_is_slow(here: SoakWorld, choice: random.Random) -> Iterator[None]:
    """Each answer takes its time, now and then more than the node waits for."""
    pacs = choice.choice(here.archives)
    pacs.delay_s = choice.choice((0.3, 1.0, here.timeout_s + 1.0))
    yield
    pacs.delay_s = 0.0


def _pacs_loses_objects(here: SoakWorld, choice: random.Random) -> Iterator[None]:
    """It acknowledges the next ones, and does not keep them: storage commitment tells."""
    here.pacs.to_lose = choice.randint(1, 3)
    yield


def _pacs_commits_nothing(here: SoakWorld, choice: random.Random) -> Iterator[None]:
    """It takes requests for storage commitment, and does not answer them."""
    here.pacs.is_silent = True
    yield
    here.pacs.is_silent = False


def _archive_is_away(here: SoakWorld, choice: random.Random) -> Iterator[None]:
    """The second destination, which must not hold up the first."""
    here.archive.stop()
    yield
    here.archive.start()


def _settings_change(here: SoakWorld, choice: random.Random) -> Iterator[None]:
    """SIGHUP with another settle time."""
    here.node.receive["settle_s"] = choice.choice((0.5, 1.0, 1.5))
    here.node.written_plan()
    here.hang_up()
    yield


def _wrong_settings(here: SoakWorld, choice: random.Random) -> Iterator[None]:
    """SIGHUP with an app.yaml that says nothing to the node."""
    plan = here.node.written_plan()
    plan.write_text(json.dumps({"receive": {"prot": 1}}))
    here.hang_up()
    yield
    here.node.written_plan()


def _log_is_rotated(here: SoakWorld, choice: random.Random) -> Iterator[None]:
    """As logrotate does."""
    log = here.node.log_file
    here.rotated += 1
    with suppress(FileNotFoundError):
        log.rename(log.with_name(f"{log.name}.{here.rotated}"))
    here.hang_up()
    yield
    wait_until(log.exists, "the log is opened anew")


def _silent_crowd(here: SoakWorld, choice: random.Random) -> Iterator[None]:
    """Connections that say nothing."""
    with ExitStack() as open_ones:
        for _ in range(SILENT_CONNECTIONS):
            with suppress(OSError):
                open_ones.enter_context(socket.create_connection(("127.0.0.1", here.node.port), 2.0))
        yield


def _nonsense(here: SoakWorld, choice: random.Random) -> Iterator[None]:
    """HTTP, TLS, halves of requests and wrong titles on the port; nonsense at the port of the probes."""
    for words in choice.sample(NONSENSE, len(NONSENSE)):
        with suppress(OSError), socket.create_connection(("127.0.0.1", here.node.port), 2.0) as connection:
            connection.sendall(words)
            connection.settimeout(0.2)
            connection.recv(100)
    with suppress(OSError, HTTPException):
        ask(here.node.probe_port, "/" + "x" * 5000)
    yield


OF_THE_NODE: tuple[Disturbance, ...] = (
    _settings_change, _wrong_settings, _log_is_rotated, _silent_crowd, _nonsense,
)  # fmt: skip
OF_THE_PACS: tuple[Disturbance, ...] = (
    _pacs_is_slow, _pacs_loses_objects, _pacs_commits_nothing, _archive_is_away,
)  # fmt: skip


def disturbances(has_a_disk: bool) -> tuple[Disturbance, ...]:
    """All that can be done here; a full disk needs one of its own."""
    shared = [FAULTS[name] for name in SHARED if has_a_disk or name != DISK_IS_FULL]
    return (*shared, *OF_THE_PACS, *OF_THE_NODE)


def away_for_long(here: SoakWorld, choice: random.Random) -> Iterator[None]:
    """Both destinations, for longer than a fault may last unsaid."""
    for pacs in here.archives:
        pacs.stop()
    yield
    for pacs in here.archives:
        pacs.start()


def in_words(disturbance: Disturbance) -> str:
    return disturbance.__name__.strip("_").replace("_", " ")
