"""One function on many jobs: in this process, in several new ones, or on a Dask cluster; results come as they finish.

Workers end with the run. Should this process be killed, they notice within seconds and end too. Each has a number,
by which they share GPUs.
"""

import logging
import os
import pickle
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seganypet._files import temporary_folder
from seganypet.errors import SegAnyPETError, warn_caller

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
    threads: int | None = None, watch: Callable[[Path], object] = lambda folder: None,
) -> Iterator[tuple[int, Any]]:  # fmt: skip
    """Call a function on each job, in other processes.

    Args:
        function: Module-level function, so that another process can import it; its result must be picklable.
        jobs: Its arguments.
        processes: Number of processes on this machine.
        cluster: Address of a Dask scheduler, such as "tcp://host:8786", instead of processes on this machine.
        threads: Threads of PyTorch in each process; None: on this machine its share of the cores, on a cluster one.
        watch: Called with the folder in which processes of this machine leave word of what they do, see `worker_file`.

    Yields:
        Index of a job and its result, in the order in which they finish; an exception in place of a result if the
        function raised it, or if the cluster gave the job up.

    Raises:
        SegAnyPETError: A process of this machine died, no scheduler answers, or it was lost.

    Warns:
        UserWarning: The cluster has no worker yet.
    """
    if cluster is not None:
        yield from _on_cluster(function, jobs, cluster, threads or 1)
    else:
        yield from _in_processes(function, jobs, processes, threads, watch)


def worker_number() -> int | None:
    """Number of this process among the workers of a run, from 0; None in any other process."""
    return _here["number"] if _here else None


def worker_file() -> Path | None:
    """File in which this worker may say what it does; None in any other process."""
    return _here["folder"] / f"{_here['number']}.now" if _here else None


_here: dict[str, Any] = {}


@contextmanager
def threads_for_run(threads: int | None) -> Iterator[None]:
    """PyTorch's threads in this process while a study runs here; None leaves them as they are."""
    if threads is None:
        yield
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def check_workers(processes: int, cluster: str | None = None, threads: int | None = None) -> None:
    """Raise SegAnyPETError for numbers and combinations that make no sense."""
    if processes < 1 or (threads is not None and threads < 1):
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
    function: Callable[[Any], Any], jobs: Sequence[Any], processes: int, threads: int | None,
    watch: Callable[[Path], object],
) -> Iterator[tuple[int, Any]]:  # fmt: skip
    from concurrent.futures import as_completed
    from concurrent.futures.process import BrokenProcessPool

    from joblib import cpu_count

    processes = min(processes, len(jobs))
    with process_pool(processes, threads or max(1, cpu_count() // processes), watch=watch) as executor:
        indices = {executor.submit(function, job): index for index, job in enumerate(jobs)}
        for future in as_completed(indices):
            if isinstance(future.exception(), BrokenProcessPool):
                raise SegAnyPETError(_WORKER_DIED) from future.exception()
            yield indices[future], future.exception() or future.result()


@contextmanager
def process_pool(
    processes: int, threads: int = 1, prepare: Callable[..., object] | None = None, arguments: Sequence[Any] = (),
    watch: Callable[[Path], object] = lambda folder: None,
) -> "Iterator[ProcessPoolExecutor]":  # fmt: skip
    """Processes that end with the block, or within seconds if this process is killed.

    Args:
        processes: Number of processes.
        threads: Threads of PyTorch in each process.
        prepare: Function that each process calls first; None: none.
        arguments: Its arguments.
        watch: As in `run_jobs`.
    """
    # joblib.Parallel over the same processes would hand arrays over as read-only maps, and batch cases.
    from joblib.externals.loky import ProcessPoolExecutor

    with temporary_folder() as folder:
        executor = ProcessPoolExecutor(
            processes, initializer=_start_worker, initargs=(os.getpid(), folder, threads, prepare, arguments),
            env={"OMP_NUM_THREADS": str(threads)},
        )  # fmt: skip
        watch(folder)
        try:
            yield executor
        finally:
            executor.shutdown(kill_workers=True)


def _on_cluster(
    function: Callable[[Any], Any], jobs: Sequence[Any], address: str, threads: int
) -> Iterator[tuple[int, Any]]:
    from concurrent.futures import CancelledError

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
        if not client.scheduler_info()["workers"]:
            warn_caller(
                f"the Dask scheduler at {address} has no worker yet; the run waits for one: `dask worker {address} "
                "--nthreads 1`, with this package installed."
            )
        try:
            for future in as_completed(futures, loop=client.loop):
                yield indices[future.key], future.exception() or future.result()
        except CancelledError:
            logging.getLogger("distributed.client").setLevel(logging.CRITICAL)  # it would print tracebacks of that
            raise SegAnyPETError(
                f"the Dask scheduler at {address} was lost. What was finished is in the output: start it again, and "
                "run the same command."
            ) from None
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
    parent: int, folder: Path, threads: int, prepare: Callable[..., object] | None, arguments: Sequence[Any]
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes of a terminal; the parent decides
    _here.update(folder=folder, number=_free_number(folder))
    _limit_threads(threads)
    threading.Thread(target=_end_with_parent, args=(parent,), daemon=True).start()
    if prepare is not None:
        prepare(*arguments)


def _free_number(folder: Path) -> int:
    """The first number that no other worker has taken."""
    return next(number for number in count() if _takes(folder / str(number)))


def _takes(path: Path) -> bool:
    try:
        path.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def _end_with_parent(parent: int) -> None:
    """End this process, whatever it is doing, once its parent is gone: a killed parent cannot say so."""
    while _is_parent(parent):
        time.sleep(_WATCH_SECONDS)
    shutil.rmtree(_here["folder"], ignore_errors=True)
    os._exit(1)


def _is_parent(process: int) -> bool:
    if sys.platform != "win32":
        return os.getppid() == process  # an orphan is adopted by another process
    from multiprocessing import parent_process

    parent = parent_process()
    return parent is None or parent.is_alive()
