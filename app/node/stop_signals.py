"""SIGTERM and SIGINT for a node: blocked everywhere, awaited in the main thread, answered with a drain.

Holoscan installs handlers that kill a computation still running after 3 s, so no thread may receive these
signals. This module imports nothing that starts a thread.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn, TypeVar

from app.errors import ExitCode

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)

NODE_SIGNALS = (*STOP_SIGNALS, signal.SIGHUP)
"""With SIGHUP a node reads its settings again."""

LOOK_EVERY_S = 0.1
"""How soon the end of the work is noticed."""

Result = TypeVar("Result")

_log = logging.getLogger(__name__)


def block_stop_signals(signals: tuple[signal.Signals, ...] = STOP_SIGNALS) -> None:
    """Have them blocked in every thread; start this program over with them blocked where it must be.

    Every new thread inherits that. Threads that exist already, such as those of numpy's BLAS, would still
    take a signal; a blocked signal stays blocked over exec.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    is_alone = len(list(Path("/proc/self/task").iterdir())) == 1
    if not is_alone and not before.issuperset(signals):
        sys.stdout.flush()
        sys.stderr.flush()
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606  this very program


def drain_at_stop_signal(stop: Callable[[], ExitCode], reload: Callable[[], None] | None = None) -> NoReturn:
    """Wait for SIGTERM or SIGINT, drain the node by ``stop``, end this process with the code it returns.

    With ``reload``, call it on each SIGHUP until then; whatever it raises, the node goes on.
    """
    awaited = STOP_SIGNALS if reload is None else NODE_SIGNALS
    while (number := signal.sigwait(awaited)) == signal.SIGHUP and reload is not None:
        _reload(reload)
    _log.info("draining", extra={"signal": signal.Signals(number).name})
    exit_code = stop()
    _log.info("stopped")
    end_process(exit_code)


def _reload(reload: Callable[[], None]) -> None:
    try:
        reload()
    except Exception as error:  # noqa: BLE001  a fault here must not end a node that works
        _log.error("the settings were not read again", exc_info=error)


def stop_this_process() -> None:
    """SIGTERM from within, from any thread: whoever waits for a stop signal drains."""
    os.kill(os.getpid(), signal.SIGTERM)


def run_unless_stopped(work: Callable[[], Result]) -> Result | None:
    """``work`` on a thread of its own, while this one waits for it or for a stop signal.

    Call :func:`block_stop_signals` first. Returns ``None`` when stopped; ``work`` may then still be under
    way, so end the process. What ``work`` raises is raised here.
    """
    ended: list[Result] = []
    raised: list[BaseException] = []

    def target() -> None:
        try:
            ended.append(work())
        except BaseException as error:  # noqa: BLE001  carried to the caller's thread, below
            raised.append(error)

    thread = threading.Thread(target=target, name="work", daemon=True)
    thread.start()
    while thread.is_alive():
        if signal.sigtimedwait(STOP_SIGNALS, LOOK_EVERY_S) is not None:
            return None
    if raised:
        raise raised[0]
    return ended[0]


def end_process(exit_code: ExitCode) -> NoReturn:
    """End at once: a chain that outlived the drain is on a thread that Python would wait for.

    Its study is begun again at the next start.
    """
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)
