import os
import shutil
from pathlib import Path

import pytest

# Before numpy and torch start: one thread a process, so that tests beside each other do not fight for cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def client():
    """A real Dask cluster of two worker processes, shared by the tests that are not about clusters."""
    from distributed import Client, LocalCluster

    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0", silence_logs=50) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    """No test reads or writes the user's cache."""
    monkeypatch.setenv("SAMLIB_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="session")
def no_network(tmp_path_factory):
    """The environment of a process that finds no data and nothing trained, and whose proxies refuse."""
    empty = {name: str(tmp_path_factory.mktemp(name.lower())) for name in ("SAMLIB_DATA", "SAMLIB_CACHE")}
    kept = {name: value for name, value in os.environ.items() if name.lower() not in ("no_proxy", "samlib_offline")}
    refused = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), "http://127.0.0.1:9")
    return kept | refused | empty | {"PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"}


@pytest.fixture
def public(monkeypatch):
    """A function that loads a public data set; where its file is not here and not to be had, the test is skipped by its name."""
    from samlib.data import NotAtHand, load_dataset

    beside = Path(__file__).parents[2] / "shared" / "data"
    if not os.environ.get("SAMLIB_DATA") and beside.is_dir():
        monkeypatch.setenv("SAMLIB_DATA", str(beside))

    def load(name):
        try:
            return load_dataset(name)
        except NotAtHand as error:
            pytest.skip(str(error))

    return load


@pytest.fixture
def small_npz(tmp_path):
    """A learnable data set of 120 + 40 points in 3 classes, as a file."""
    import numpy as np

    rng = np.random.default_rng(5)
    centres = 2 * rng.normal(size=(3, 6))
    y = rng.integers(0, 3, 160)
    x = (centres[y] + rng.normal(size=(160, 6))).astype(np.float32)
    path = tmp_path / "small.npz"
    np.savez(path, x_train=x[:120], y_train=y[:120], x_test=x[120:], y_test=y[120:])
    return path


@pytest.fixture
def gaussian():
    """33 models, 600 examples, 2 queries; in and out counts differ from example to example."""
    import numpy as np

    rng = np.random.default_rng(0)
    member = rng.random((33, 600)) < rng.uniform(0.3, 0.7, 600)
    signal = 2 * rng.normal(size=(1, 600, 2)) + 1.5 * member[..., None] + rng.normal(size=(33, 600, 2))
    return signal, member


@pytest.fixture(scope="session")
def browser():
    """Headless Chromium, the machine's own; a machine without one skips, except in CI."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not chromium:
        assert not os.environ.get("CI"), "CI has to have Chromium"
        pytest.skip("no Chromium on this machine")
    from playwright.sync_api import sync_playwright

    arguments = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking", "--disable-sync"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=[*arguments, "--disable-component-update"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def painted():
    """A function that waits until the explorers of a page are painted: in frames that may come after the page has loaded."""

    def wait(page):
        page.wait_for_function(
            "[...document.querySelectorAll('.samlib-frame > .samlib-picture')].every((e) => e.ariaLabel)"
        )
        page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")

    return wait


@pytest.fixture
def offline(browser, painted):
    """A function that opens a page offline; whatever it complains of, or asks the network for, fails the test."""
    pages, trouble = [], []

    def opened(address, width, height):
        page = browser.new_page(viewport={"width": width, "height": height})
        page.context.set_offline(True)
        page.on("console", lambda m: trouble.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda e: trouble.append(str(e)))
        page.on("request", lambda r: None if r.url.startswith(("file:", "data:")) else trouble.append(r.url))
        pages.append(page)
        page.goto(address)
        painted(page)
        return page

    yield opened
    for page in pages:
        page.close()
    assert not trouble


@pytest.fixture(scope="session")
def faults():
    """A function that says what axe finds against WCAG 2 A and AA on a page that stands open, as "rule: selector"."""
    from axe_playwright_python.sync_playwright import Axe

    axe = Axe()
    # These are alike and many: the first ones stand for the rest, which takes axe minutes.
    many = ":is(tr, li):nth-child(n + 4), dl.py:nth-of-type(n + 4), pre > :nth-child(n + 200), mjx-assistive-mml"
    options = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"], "resultTypes": ["violations"]}

    def found(page) -> list[str]:
        page.evaluate("many => document.querySelectorAll(many).forEach(each => each.remove())", many)
        violations = axe.run(page, options=options).response["violations"]
        return [f"{fault['id']}: {' '.join(node['target'])}" for fault in violations for node in fault["nodes"]]

    return found
