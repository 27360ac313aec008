"""The one place that imports Holoscan and the MONAI Deploy App SDK.

``import holoscan`` needs ``libcudart.so.13`` even without a GPU; the wheel ``nvidia-cuda-runtime`` has it,
but outside the loader's path. So it is loaded here first, by its place in the wheel, and every operator
imports the framework from this module.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import resource
import sys
import tempfile
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from app.errors import MisconfiguredError

HOLOSCAN_STACK_BYTES = 32 * 1024 * 1024
"""Holoscan warns below this soft stack limit (holoscan/core/__init__.py)."""


def _load_cuda_runtime() -> None:
    spec = importlib.util.find_spec("nvidia")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    candidates = [Path(folder) / "cu13" / "lib" / "libcudart.so.13" for folder in folders]
    library = next((path for path in candidates if path.is_file()), None)
    if library is None:
        raise MisconfiguredError(
            "found no libcudart.so.13 in the Python environment, expected the wheel nvidia-cuda-runtime 13; "
            "install the packages of requirements.txt"
        )
    ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)


def _raise_soft_stack_limit() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_STACK)
    too_small = soft not in (resource.RLIM_INFINITY,) and soft < HOLOSCAN_STACK_BYTES
    if too_small and (hard == resource.RLIM_INFINITY or hard >= HOLOSCAN_STACK_BYTES):
        resource.setrlimit(resource.RLIMIT_STACK, (HOLOSCAN_STACK_BYTES, hard))


def _give_caches_a_place() -> None:
    """CuPy, which Holoscan imports, makes a folder in the home on import; a service may have no home."""
    home = Path.home()
    if not (home.is_dir() and os.access(home, os.W_OK)):
        cache = Path(tempfile.gettempdir()) / f"psma-node-{os.getuid()}"
        os.environ.setdefault("CUPY_CACHE_DIR", str(cache / "cupy"))
        os.environ.setdefault("MPLCONFIGDIR", str(cache / "matplotlib"))


@contextmanager
def _without_the_rest_of_monai() -> Iterator[None]:
    """Within it the package ``monai`` is a mere place: the SDK stands in it and uses nothing else of it.

    MONAI's own ``__init__`` imports all of MONAI, which takes seconds. Whoever imports MONAI afterwards gets
    it, but without the attribute ``deploy``: ``from monai.deploy.core import X`` works, ``import
    monai.deploy.core`` and then ``monai.deploy.core.X`` does not.
    """
    spec = importlib.util.find_spec("monai")
    if spec is None:
        raise MisconfiguredError("found no monai.deploy; install the packages of requirements.txt")
    package = types.ModuleType("monai")
    package.__path__ = list(spec.submodule_search_locations or ())
    is_first = sys.modules.setdefault("monai", package) is package
    try:
        yield
    finally:
        if is_first:
            del sys.modules["monai"]


# What it logs as an error is raised as an exception too, and we report it in one line without any header;
# its own lines may. HOLOSCAN_LOG_LEVEL=ERROR (or DEBUG) in the environment shows them.
os.environ.setdefault("HOLOSCAN_LOG_LEVEL", "OFF")
_give_caches_a_place()
_load_cuda_runtime()
_raise_soft_stack_limit()
with _without_the_rest_of_monai():  # after the CUDA runtime is loaded
    from holoscan.conditions import CountCondition
    from holoscan.schedulers import GreedyScheduler
    from monai.deploy.core import Application, Fragment, Operator, OperatorSpec

PYTHON_OBJECT = "PyObject"
"""Emitter name that passes a Python object as it is; without it arrays in containers turn into tensors."""

__all__ = [
    "PYTHON_OBJECT",
    "Application",
    "CountCondition",
    "Fragment",
    "GreedyScheduler",
    "Operator",
    "OperatorSpec",
]
