"""The same work on many jobs: here, in several processes, or on a Dask cluster; what it says arrives as it is said.

`work(job)` is a generator at the top of a module, so that another process can import it; what it yields must be
picklable. One job is worked on by one process, from its beginning to its end.
"""

import copyreg
import os
import pickle
import sys
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from seganypet.errors import SegAnyPETError

Work = Callable[[Any], Iterable[Any]]

SCHEDULER_TIMEOUT_S = 10

_LOST = (
    "a worker process died (killed for its memory?). What it had finished stands in the output: run again, with fewer "
    "processes. In a script, call evaluate under `if __name__ == '__main__':`, since each process imports the script."
)


def run_jobs(
    work: Work, jobs: Sequence[Any], *, processes: int = 1, cluster: str | None = None, threads: int = 1
) -> Iterator[tuple[int, Any]]:
    """Do the work on all jobs.

    Args:
        work: See the module's docstring.
        jobs: Arguments of `work`.
        processes: 1: in this process, job after job. More: so many new ones on this machine.
        cluster: Address of a Dask scheduler, such as "tcp://host:8786", in the place of local processes.
        threads: Of PyTorch, in each other process; this process keeps its own number.

    Yields:
        Number of a job, and what `work` said about it: in its order for each job, in any order among jobs. An
        exception in the place of a message: the job failed as a whole.

    Raises:
        SegAnyPETError: Processes and a cluster both, a local process died, or no scheduler answers.
    """
    if processes < 1 or threads < 1:
        raise SegAnyPETError(f"processes={processes}, threads={threads}: expected at least 1 of each.")
    if cluster is not None and processes > 1:
        raise SegAnyPETError(f"processes={processes} and cluster={cluster!r}: give one; a cluster has its own workers.")
    if cluster is not None:
        yield from _on_cluster(work, jobs, cluster, threads)
    elif processes > 1 and len(jobs) > 1:
        yield from _in_processes(work, jobs, min(processes, len(jobs)), threads)
    else:
        for number, job in enumerate(jobs):
            for message in work(job):
                yield number, message


def check_sendable(name: str, thing: Any, advice: str) -> None:
    """Raise SegAnyPETError, with advice, if something cannot go to another process."""
    try:
        pickle.dumps(thing)
    except (pickle.PicklingError, TypeError, AttributeError, NotImplementedError) as error:
        raise SegAnyPETError(f"{name} cannot be sent to another process ({error}). {advice}") from error


def _limit_threads(threads: int) -> None:
    os.environ["OMP_NUM_THREADS"] = str(threads)  # read by PyTorch when it is imported
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)


# ---- processes of this machine


def _in_processes(work: Work, jobs: Sequence[Any], processes: int, threads: int) -> Iterator[tuple[int, Any]]:
    from concurrent.futures import ProcessPoolExecutor
    from concurrent.futures.process import BrokenProcessPool
    from multiprocessing import get_context

    context = get_context("spawn")  # a forked copy of a process with threads, such as PyTorch's, may hang
    receiver, sender = context.Pipe(duplex=False)
    pool = ProcessPoolExecutor(processes, context, _start_worker, (sender, context.Lock(), threads))
    try:
        futures = [pool.submit(_work_and_send, work, number, job) for number, job in enumerate(jobs)]
        sender.close()  # so that the pipe ends with the last worker
        finished = False
        while not finished:
            finished = all(future.done() for future in futures)  # asked first: what they sent is then in the pipe
            while receiver.poll(0 if finished else 0.1):
                yield receiver.recv()
        for number, future in enumerate(futures):
            if isinstance(future.exception(), BrokenProcessPool):
                raise SegAnyPETError(_LOST)
            if future.exception() is not None:
                yield number, future.exception()
    except (BrokenProcessPool, EOFError) as error:
        raise SegAnyPETError(_LOST) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        receiver.close()


_outbox: tuple[Any, Any] | None = None


def _start_worker(sender: Any, lock: Any, threads: int) -> None:
    global _outbox
    _outbox = sender, lock
    _limit_threads(threads)


def _work_and_send(work: Work, number: int, job: Any) -> None:
    sender, lock = _outbox
    for message in work(job):
        with lock:
            sender.send((number, message))


# ---- Dask


def _on_cluster(work: Work, jobs: Sequence[Any], address: str, threads: int) -> Iterator[tuple[int, Any]]:
    # Importing Dask teaches pickle to carry tracebacks, on which process pools of the same program then break.
    as_pickle_was = dict(copyreg.dispatch_table)
    try:
        from distributed import Client, Queue
    except ImportError as error:
        raise SegAnyPETError("a cluster needs Dask: pip install 'seganypet[cluster]'.") from error
    finally:
        copyreg.dispatch_table.clear()
        copyreg.dispatch_table.update(as_pickle_was)
    try:
        client = Client(address, timeout=SCHEDULER_TIMEOUT_S, set_as_default=False)
    except (OSError, ValueError) as error:
        raise SegAnyPETError(
            f"no Dask scheduler answers at {address} ({error}). Start one, `dask scheduler`, and workers, "
            "`dask worker ADDRESS`, with this package installed; it prints the address."
        ) from error
    with client:
        name = f"seganypet-{uuid.uuid4().hex}"
        queue = Queue(name, client=client)
        futures = [
            client.submit(_work_and_queue, work, number, job, name, threads, key=f"{name}-{number}", pure=False)
            for number, job in enumerate(jobs)
        ]
        try:
            finished = False
            while True:
                try:
                    message = queue.get(timeout=0.1)
                except TimeoutError:
                    if finished:
                        break
                    finished = all(future.done() for future in futures)  # then one more look into the queue
                    continue
                yield pickle.loads(message)
            for number, future in enumerate(futures):
                if future.status != "finished":
                    yield number, future.exception() or SegAnyPETError(f"the cluster gave it up: {future.status}")
        finally:
            client.cancel(futures)
            queue.close()


def _work_and_queue(work: Work, number: int, job: Any, name: str, threads: int) -> None:
    from distributed import Queue

    _limit_threads(threads)
    queue = Queue(name)
    for message in work(job):
        queue.put(pickle.dumps((number, message)))
