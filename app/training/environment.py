"""The environment a training process is born with: nnU-Net's folders and the C library's memory settings.

Both are read before any of our code runs (nnU-Net's at import, glibc's at start), so training always happens
in a child process that is given them.
"""

from __future__ import annotations

import os
from pathlib import Path

GIB = 1024**3


def nnunet_folders(work: Path) -> dict[str, Path]:
    """nnU-Net's three folders, by the names of its environment variables."""
    base = work / "nnunet"
    return {
        "nnUNet_raw": base / "raw",
        "nnUNet_preprocessed": base / "preprocessed",
        "nnUNet_results": base / "results",
    }


def child_environment(work: Path, threads: int, *, planning: bool) -> dict[str, str]:
    """This process's environment with what nnU-Net and glibc need.

    Args:
        work: the training's folder.
        threads: compute threads of the child.
        planning: nnU-Net's fingerprint and planning need ``nnUNet_n_proc_DA`` of at least 1; training without
            helper processes needs 0.
    """
    return {
        **os.environ,
        **{name: str(folder) for name, folder in nnunet_folders(work).items()},
        "nnUNet_n_proc_DA": "1" if planning else "0",
        "nnUNet_def_n_proc": "1",
        "nnUNet_compile": "f",
        "OMP_NUM_THREADS": str(threads),
        "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": str(threads),
        # Large tensors come and go every step. By default glibc maps and unmaps each, and page faults take
        # more time than the convolutions: keep the memory instead.
        "MALLOC_MMAP_THRESHOLD_": str(8 * GIB),
        "MALLOC_TRIM_THRESHOLD_": str(8 * GIB),
        "MALLOC_TOP_PAD_": str(GIB // 2),
        "MALLOC_ARENA_MAX": "1",
    }
