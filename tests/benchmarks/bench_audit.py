"""Audit a file of signals that does not fit into memory: seconds, and the most memory that the process held.

    python tests/benchmarks/bench_audit.py folder [models, 2500] [examples, 1000000]

The file (12.5 GB) is written to the folder, if it is not there yet. Linux only.
"""

from __future__ import annotations

import re
import resource
import sys
import threading
import time
import zipfile
from pathlib import Path

import numpy as np

from samlib import audit_file


def write(path: Path, models: int, examples: int) -> None:
    """Logits that rise by one where a model was trained on an example, a model at a time."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, dtype in (("logit", np.dtype(np.float32)), ("member", np.dtype(bool))):
            about = {"descr": dtype.str, "fortran_order": False, "shape": (models, examples)}
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array_header_1_0(file, about)
                for model in range(models):
                    rng = np.random.default_rng(model)
                    member = rng.random(examples, np.float32) < 0.5
                    row = rng.standard_normal(examples, np.float32) + member if name == "logit" else member
                    file.write(row.astype(dtype).tobytes())


def megabytes(name: str) -> float:
    """What the system says of this process."""
    return int(re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text()).group(1)) / 1024


def watch(peak: dict[str, float], done: threading.Event) -> None:
    """Keep the most memory of the process' own, and the most with its mapped files, until `done`."""
    while not done.wait(0.02):
        for name in peak:
            peak[name] = max(peak[name], megabytes(name))


if __name__ == "__main__":
    models, examples = (int(v) for v in [*sys.argv[2:], *("2500", "1000000")[len(sys.argv) - 2 :]][:2])
    path = Path(sys.argv[1]) / f"signals-{models}-{examples}.npz"
    if not path.exists():
        write(path, models, examples)
    peak, done = {"RssAnon": 0.0, "VmRSS": 0.0}, threading.Event()
    watcher = threading.Thread(target=watch, args=(peak, done), daemon=True)
    watcher.start()
    wall, cpu = time.perf_counter(), time.process_time()
    found = audit_file(path)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    done.set()
    watcher.join()
    print(
        f"{path.stat().st_size / 1e9:.1f} GB: {wall:.0f} s, {cpu:.0f} s of a processor; "
        f"own memory {peak['RssAnon']:.0f} MB, resident {peak['VmRSS']:.0f} MB at a time "
        f"(ever {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB)\n{found.tables['risk'].head(2)}"
    )
