"""The process that starts this machine's workers, apart from the one that asks for them.

Dask spawns workers. Each runs the script that started it again, and needs a part of its environment before it starts.
Here both belong to a process of their own. So the asking process never edits its `__main__` or `os.environ`, and may have
threads.
"""

import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

# glibc returns large blocks to the system after each step, as Dask tells it to, and takes page faults to get them again.
# Convolutional nets suffer most.
KEEP_MEMORY = {"MALLOC_TRIM_THRESHOLD_": str(2**30), "MALLOC_MMAP_THRESHOLD_": str(2**25)}
LOCAL = "SAMLIB_LOCAL_WORKER"  # set in the workers of `started`
START = "import sys; sys.path[:] = sys.argv[2:]; from samlib.host import serve; serve(int(sys.argv[1]))"


@contextmanager
def started(n_workers: int) -> Iterator[str]:
    """Start a Dask scheduler with n workers on this machine, of one thread each; they end with the context.

    Their messages on stderr are passed on until they are closed. What Dask prints after that is dropped.

    Parameters
    ----------
    n_workers : int
        The number of worker processes.

    Yields
    ------
    str
        The address of the scheduler.

    Raises
    ------
    RuntimeError
        If they do not start.

    Examples
    --------
    >>> with started(1) as address:
    ...     print(address.partition(":")[0])
    tcp
    """
    import dask

    config = {"DASK_INTERNAL_INHERIT_CONFIG": dask.config.serialize(dask.config.global_config)}
    said, stderr = os.pipe()
    closing = threading.Event()
    reader = threading.Thread(target=_forward, args=(said, closing), daemon=True)
    command = [sys.executable, "-c", START, str(n_workers), *sys.path]
    environment, pipe = os.environ | KEEP_MEMORY | {LOCAL: "1"} | config, subprocess.PIPE
    with subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, stderr=stderr, text=True) as process:
        os.close(stderr)
        reader.start()
        assert process.stdin is not None and process.stdout is not None  # noqa: PT018
        if not (address := process.stdout.readline().strip()):
            reader.join(5)
            raise RuntimeError("The workers of this machine did not start; the messages above say why.")
        try:
            yield address
        finally:
            closing.set()
            with suppress(OSError):  # it is gone
                process.stdin.write("close\n")
                process.stdin.flush()


def _forward(pipe: int, closing: threading.Event) -> None:
    with open(pipe, "rb") as lines:
        for line in lines:
            if not closing.is_set():
                os.write(2, line)


def serve(n_workers: int) -> None:
    """Start the workers, print the scheduler's address, and close them when a line comes in. If stdin closes, end at once."""
    from distributed import LocalCluster

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the asking process, which then closes this one
    answer = os.dup(1)
    os.dup2(2, 1)  # the workers' output must not fill the pipe of the answer
    ports = {"dashboard_address": "127.0.0.1:0", "silence_logs": logging.ERROR}  # any free port
    with LocalCluster(n_workers=n_workers, threads_per_worker=1, **ports) as cluster:
        os.write(answer, f"{cluster.scheduler_address}\n".encode())
        if not sys.stdin.readline():  # the asking process was killed
            os._exit(1)
