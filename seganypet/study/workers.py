"""One function on many jobs: in this process, in several new ones, or on a Dask cluster; results come as they finish.

Workers end with the run. Should this process be killed, they notice within seconds and end too.
"""

import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from seganypet.errors import SegAnyPETError

if TYPE_CHECKING:
    from concurrent.futures import ProcessPoolExecutor

SCHEDULER_TIMEOUT_S = 10
_WATCH_SECONDS = 1.0

_WORKER_DIED = (
    "a worker process died (killed for its memory?). What was finished is in the output: run again, with fewer "
    "processes."
)


def run_jobs(
    function: Callable[[Any], Any], jobs: Sequence[Any], processes: int = 1, cluster: str | None = None,
    threads: int = 1,
) -> Iterator[tuple[int, Any]]:  # fmt: skip
    """Call a function on each job, in other processes.

    Args:
        function: Module-level function, so that another process can import it; its result must be picklable.
        jobs: Its arguments.
        processes: Number of processes on this machine.
        cluster: Address of a Dask scheduler, such as "tcp://host:8786", instead of processes on this machine.
        threads: Threads of PyTorch in each process.

    Yields:
        Index of a job and its result, in the order in which they finish; an exception in place of a result if the
        function raised it, or if the cluster gave the job up.

    Raises:
        SegAnyPETError: A process of this machine died, or no scheduler answers.
    """
    if cluster is not None:
        yield from _on_cluster(function, jobs, cluster, threads)
    else:
        yield from _in_processes(function, jobs, processes, threads)


def check_workers(processes: int, cluster: str | None, threads: int) -> None:
    """Raise SegAnyPETError for numbers and combinations that make no sense."""
    if processes < 1 or threads < 1:
        raise SegAnyPETError(f"processes={processes}, threads={threads}: expected at least 1 of each.")
    if cluster is not None and processes > 1:
        raise SegAnyPETError(f"processes={processes} and cluster={cluster!r}: give one; a cluster has its own workers.")


def check_picklable(name: str, thing: Any, advice: str) -> None:
    """Raise SegAnyPETError, with advice, if something cannot be sent to another process."""
    try:
        pickle.dumps(thing)
    except (pickle.PicklingError, TypeError, AttributeError, NotImplementedError) as error:
        raise SegAnyPETError(f"{name} cannot be sent to another process ({error}). {advice}") from error


def _in_processes(
    function: Callable[[Any], Any], jobs: Sequence[Any], processes: int, threads: int
) -> Iterator[tuple[int, Any]]:
    from concurrent.futures import as_completed
    from concurrent.futures.process import BrokenProcessPool

    with process_pool(min(processes, len(jobs)), threads) as executor:
        indices = {executor.submit(function, job): index for index, job in enumerate(jobs)}
        for future in as_completed(indices):
            if isinstance(future.exception(), BrokenProcessPool):
                raise SegAnyPETError(_WORKER_DIED) from future.exception()
            yield indices[future], future.exception() or future.result()


@contextmanager
def process_pool(
    processes: int, threads: int = 1, prepare: Callable[..., object] | None = None, arguments: Sequence[Any] = ()
) -> "Iterator[ProcessPoolExecutor]":
    """Processes that end with the block, or within seconds if this process is killed.

    Args:
        processes: Number of processes.
        threads: Threads of PyTorch in each process.
        prepare: Function that each process calls first; None: none.
        arguments: Its arguments.
    """
    # joblib.Parallel over the same processes would hand arrays over as read-only maps, and batch cases.
    from joblib.externals.loky import ProcessPoolExecutor

    executor = ProcessPoolExecutor(
        processes, initializer=_start_worker, initargs=(os.getpid(), threads, prepare, arguments),
        env={"OMP_NUM_THREADS": str(threads)},
    )  # fmt: skip
    try:
        yield executor
    finally:
        executor.shutdown(kill_workers=True)


def _on_cluster(
    function: Callable[[Any], Any], jobs: Sequence[Any], address: str, threads: int
) -> Iterator[tuple[int, Any]]:
    try:
        from distributed import Client, as_completed
    except ImportError as error:
        raise SegAnyPETError("a cluster needs Dask: pip install 'seganypet[cluster]'.") from error
    try:
        client = Client(address, timeout=SCHEDULER_TIMEOUT_S, set_as_default=False)
    except (OSError, ValueError) as error:
        raise SegAnyPETError(
            f"no Dask scheduler answers at {address} ({error}). Start one, `dask scheduler`, and workers, "
            "`dask worker ADDRESS`, with this package installed; it prints the address."
        ) from error
    with client:
        futures = [client.submit(_with_threads, function, job, threads, pure=False) for job in jobs]
        indices = {future.key: index for index, future in enumerate(futures)}
        try:
            for future in as_completed(futures, loop=client.loop):
                yield indices[future.key], future.exception() or future.result()
        finally:
            client.cancel(futures)


def _with_threads(function: Callable[[Any], Any], job: Any, threads: int) -> Any:
    _limit_threads(threads)
    return function(job)


def _limit_threads(threads: int) -> None:
    os.environ["OMP_NUM_THREADS"] = str(threads)  # read by PyTorch when it is imported
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)


def _start_worker(
    parent: int, threads: int, prepare: Callable[..., object] | None, arguments: Sequence[Any]
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes of a terminal; the parent decides
    _limit_threads(threads)
    threading.Thread(target=_end_with_parent, args=(parent,), daemon=True).start()
    if prepare is not None:
        prepare(*arguments)


def _end_with_parent(parent: int) -> None:
    """End this process, whatever it is doing, once its parent is gone: a killed parent cannot say so."""
    while _is_parent(parent):
        time.sleep(_WATCH_SECONDS)
    os._exit(1)


def _is_parent(process: int) -> bool:
    if sys.platform != "win32":
        return os.getppid() == process  # an orphan is adopted by another process
    from multiprocessing import parent_process

    parent = parent_process()
    return parent is None or parent.is_alive()
