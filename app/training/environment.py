"""The environment a training process is born with: nnU-Net's folders and the C library's memory settings.

Both are read before any of our code runs (nnU-Net's at import, glibc's at start), so training always happens
in a child process that is given them.
"""

from __future__ import annotations

import os

from app.training.workplace import Workplace

GIB = 1024**3


def child_environment(
    place: Workplace, threads: int, *, planning: bool, on_gpu: bool = False
) -> dict[str, str]:
    """This process's environment with what nnU-Net and glibc need.

    Args:
        place: the experiment's folder.
        threads: compute threads of the child.
        planning: nnU-Net's fingerprint and planning need ``nnUNet_n_proc_DA`` of at least 1; training without
            helper processes needs 0.
        on_gpu: helper processes prepare batches, as many as nnU-Net itself chooses: a GPU would wait for one.
    """
    processes = {} if on_gpu and not planning else {"nnUNet_n_proc_DA": "1" if planning else "0"}
    return {
        **os.environ,
        **{name: str(folder) for name, folder in place.nnunet.items()},
        **processes,
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
