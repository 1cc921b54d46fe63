"""From slider to picture in headless Chromium, 95th percentile (target 100 ms); Python's refit of both fits (target 50 ms).

    python tests/benchmarks/bench_explorer.py [--moves 100]

A move is timed from the slider's event until the browser has drawn the frame that follows. Sliders move to random places, at the
default counts and at the largest ones, where a fit costs most; moving the atypical cluster redraws the densities as well.
"""

import argparse
import platform
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np

from samlib.widgets import MemorizationExplorer, MixtureExplorer, TheoryExplorer, write_page

LARGEST = {"n_typical": 200, "n_atypical": 100, "n_blue": 200, "degree": 4}
MOVE = """async ([name, values]) => {
  const input = document.querySelector(`input[name="${name}"]`), times = [];
  for (const value of values) {
    await new Promise(requestAnimationFrame);
    input.value = value;
    const start = performance.now();
    input.dispatchEvent(new Event("input", { bubbles: true }));
    // The explorer draws in the next frame, before this one; a message is delivered once that frame is out.
    await new Promise((done) => requestAnimationFrame(() => {
      const channel = new MessageChannel();
      channel.port1.onmessage = done;
      channel.port2.postMessage(null);
    }));
    times.push(performance.now() - start);
  }
  return times;
}"""


def moves(tab, folder, explorer, start, n, rng):
    """Milliseconds of `n` moves of each slider that `start` does not hold, by slider."""
    tab.goto(write_page(Path(folder) / "explore.html", [explorer()]).as_uri())
    for name, value in (explorer().setting | start).items():
        tab.locator(f'input[name="{name}"]').fill(str(value))
    times = {}
    for name, trait in explorer.sliders.items():
        if name not in start:
            step = trait.metadata["step"]
            values = trait.min + step * rng.integers(0, round((trait.max - trait.min) / step) + 1, n)
            times[name] = tab.evaluate(MOVE, [name, values.tolist()])
            tab.locator(f'input[name="{name}"]').fill(str(trait.default_value))
    return times


def report(title, times):
    everything = np.concatenate(list(times.values()))
    worst = max(times, key=lambda name: np.percentile(times[name], 95))
    p50, p95 = np.percentile(everything, [50, 95])
    print(f"{title}: median {p50:.1f} ms, 95th percentile {p95:.1f} ms over {len(everything)} moves; "
          f"slowest slider {worst}, {np.percentile(times[worst], 95):.1f} ms")  # fmt: skip


def python_refit(setting, n, rng):
    times = {"both fits": [], "fits and measures": []}
    for _ in range(n):
        explorer = MixtureExplorer(**setting | {"rho": float(rng.uniform(0, 4)), "seed": int(rng.integers(1000))})
        for name, function in (("both fits", explorer.fits), ("fits and measures", explorer.frame)):
            start = time.perf_counter()
            function()
            times[name].append(1e3 * (time.perf_counter() - start))
    return times


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--moves", type=int, default=100)
    args = parser.parse_args()
    from playwright.sync_api import sync_playwright

    rng = np.random.default_rng(0)
    print(f"{platform.machine()}, Python {platform.python_version()}, numpy {np.__version__}")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as folder:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        tab = browser.new_page(viewport={"width": 1200, "height": 900})
        report("mixture, default counts", moves(tab, folder, MixtureExplorer, {}, args.moves, rng))
        report("mixture, largest draw and degree", moves(tab, folder, MixtureExplorer, LARGEST, args.moves, rng))
        report("memorization", moves(tab, folder, MemorizationExplorer, {}, args.moves, rng))
        report("theory", moves(tab, folder, TheoryExplorer, {}, args.moves, rng))
        browser.close()
    for title, setting in (("default counts", {}), ("largest draw and degree", LARGEST)):
        for what, times in python_refit(setting, args.moves, rng).items():
            p50, p95 = np.percentile(times, [50, 95])
            print(f"Python, {title}, {what}: median {p50:.1f} ms, 95th percentile {p95:.1f} ms")


if __name__ == "__main__":
    main()
