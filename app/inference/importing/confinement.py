"""A process gives up its rights before it reads a file from an unknown place. Linux; no privilege needed.

What a machine does not offer is left out: each function returns in words what it has enforced.
"""

from __future__ import annotations

import ctypes
import os
import resource
from collections.abc import Callable
from pathlib import Path

CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000
PR_SET_NO_NEW_PRIVS = 38
LANDLOCK_CREATE_RULESET, LANDLOCK_RESTRICT_SELF = 444, 446
LANDLOCK_VERSION_FLAG = 1
NOBODY = 65534

NETWORK = "no network (a network namespace of its own, with no interface up)"
NO_FILES = "no file can be opened, made, removed or run (Landlock)"
NO_PRIVILEGES = "no privilege can be gained (no_new_privs)"
LIMITS = "memory, processor time, size of the file written and core files are limited"
NO_PROCESSES = "no process can be started (RLIMIT_NPROC)"
UNPRIVILEGED = "user nobody instead of root, no capability"
EVERYTHING = (NETWORK, LIMITS, UNPRIVILEGED, NO_PROCESSES, NO_PRIVILEGES, NO_FILES)

_FILE_RIGHTS_OF_VERSION = {1: 13, 2: 14, 3: 15, 4: 15}
"""How many bits ``handled_access_fs`` has in each version of Landlock's interface; 16 from version 5 on."""


class _Ruleset(ctypes.Structure):
    """``struct landlock_ruleset_attr``; earlier kernels know its beginning only."""

    _fields_ = [("files", ctypes.c_uint64), ("network", ctypes.c_uint64), ("scoped", ctypes.c_uint64)]


def leave_network() -> tuple[str, ...]:
    """A network namespace of this process's own. Call it before there is a second thread."""
    libc = ctypes.CDLL(None, use_errno=True)
    for flags in (CLONE_NEWNET, CLONE_NEWUSER | CLONE_NEWNET):
        if libc.unshare(flags) == 0:
            return (NETWORK,)
    return ()


def give_up_rights(memory_bytes: int, written_bytes: int, processor_s: int) -> tuple[str, ...]:
    """Everything but the open files; call it once all that is needed is imported.

    Args:
        memory_bytes: address space beyond what is in use now.
        written_bytes: the largest file that may be written.
        processor_s: processor time from the process's start, seconds.
    """
    _limit(memory_bytes, written_bytes, processor_s)
    steps: tuple[tuple[str, Callable[[], bool]], ...] = (
        (UNPRIVILEGED, _become_nobody),
        (NO_PROCESSES, _refuse_new_processes),
        (NO_PRIVILEGES, _refuse_privileges),
        (NO_FILES, _refuse_files),
    )
    return (LIMITS, *(words for words, step in steps if step()))


def _limit(memory_bytes: int, written_bytes: int, processor_s: int) -> None:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    limits = {
        resource.RLIMIT_AS: pages * resource.getpagesize() + memory_bytes,
        resource.RLIMIT_FSIZE: written_bytes,
        resource.RLIMIT_CPU: processor_s,
        resource.RLIMIT_CORE: 0,
    }
    for kind, most in limits.items():
        _, hard = resource.getrlimit(kind)
        least = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (least, least))


def _become_nobody() -> bool:
    """Only root can, and only root needs to: another user has no capability to lose."""
    if os.geteuid() != 0:
        return True
    try:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    except OSError:  # root of a user namespace, which has no other user
        return False
    return True


def _refuse_new_processes() -> bool:
    resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
    return os.geteuid() != 0  # the limit does not bind root


def _refuse_privileges() -> bool:
    libc = ctypes.CDLL(None, use_errno=True)
    return bool(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0)


def _refuse_files() -> bool:
    """A Landlock ruleset with no rule: whatever it handles is refused. Open files stay usable."""
    libc = ctypes.CDLL(None, use_errno=True)
    version = libc.syscall(LANDLOCK_CREATE_RULESET, None, ctypes.c_size_t(0), LANDLOCK_VERSION_FLAG)
    if version < 1:
        return False
    files = (1 << _FILE_RIGHTS_OF_VERSION.get(version, 16)) - 1
    ruleset = _Ruleset(files, 0b11 if version >= 4 else 0, 0b11 if version >= 6 else 0)
    known_bytes = 24 if version >= 6 else 16 if version >= 4 else 8
    descriptor = libc.syscall(LANDLOCK_CREATE_RULESET, ctypes.byref(ruleset), ctypes.c_size_t(known_bytes), 0)
    if descriptor < 0:
        return False
    restricted = bool(libc.syscall(LANDLOCK_RESTRICT_SELF, descriptor, 0) == 0)
    os.close(descriptor)
    return restricted
