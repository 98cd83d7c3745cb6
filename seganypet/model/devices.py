"""Where networks compute: on which device, and with how many threads of a CPU.

Two processes whose threads outnumber the cores wait for each other at every operation: a click of a small network then
took fifty times as long. So a small network computes on one thread, a large one on the cores that this process may use.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from seganypet.errors import SegAnyPETError

SMALL_NETWORK = 20e6  # parameters, up to which one thread is as fast as many, and is not slowed by a busy neighbour


def find_device(name: str | torch.device = "auto") -> torch.device:
    """A device of this machine.

    Args:
        name: "cpu", "cuda", "cuda:1" or "mps"; or "auto", which is what the environment variable SEGANYPET_DEVICE says,
            else the first GPU of CUDA, else the CPU.

    Raises:
        SegAnyPETError: There is no such device; the message lists those that are there.

    >>> find_device("cpu")
    device(type='cpu')
    """
    gpus = [f"cuda:{number}" for number in range(torch.cuda.device_count() if torch.cuda.is_available() else 0)]
    # Apple's GPU is taken on request only: PyTorch lacks some operations in 3D there.
    there = [*gpus, *(["mps"] if torch.backends.mps.is_available() else []), "cpu"]
    wanted = str(name)
    if wanted == "auto":
        wanted = os.environ.get("SEGANYPET_DEVICE") or (gpus[0] if gpus else "cpu")
    if wanted in there or (wanted == "cuda" and gpus):
        return torch.device(wanted)
    built = " This PyTorch was built without CUDA; pytorch.org tells how to install one with it."
    without = built if wanted.startswith("cuda") and torch.version.cuda is None else ""
    raise SegAnyPETError(f"device={wanted!r}: not on this machine; expected auto, {', '.join(there)}.{without}")


def available_cores() -> int:
    """Cores that this process may use: those of its affinity, and no more than a container's quota allows."""
    from joblib import cpu_count

    return int(cpu_count())


def limit_threads() -> None:
    """Lower PyTorch's threads to the cores that are available: it heeds affinity, but no quota of a container."""
    if "OMP_NUM_THREADS" not in os.environ and torch.get_num_threads() > available_cores():
        torch.set_num_threads(available_cores())


def is_small(model: Any) -> bool:
    """Whether a network computes on one thread on a CPU."""
    return sum(parameter.numel() for parameter in model.parameters()) < SMALL_NETWORK


_lock = threading.Lock()
_computing: list[int] = []  # for each thread that computes, the number of PyTorch's threads before the first began
_here = threading.local()


@contextmanager
def single_thread() -> Iterator[None]:
    """One thread of PyTorch while this thread computes, then as many as before any did: the number is the process's."""
    if getattr(_here, "computes", False):
        yield
        return
    with _lock:
        _computing.append(_computing[0] if _computing else torch.get_num_threads())
        torch.set_num_threads(1)
    _here.computes = True
    try:
        yield
    finally:
        _here.computes = False
        with _lock:
            torch.set_num_threads(_computing.pop())
