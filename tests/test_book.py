"""The book, built from executed notebooks and opened in a real browser; and each notebook alone under papermill."""

import contextlib
import http.server
import importlib.util
import json
import os
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared" / "data"
spec = importlib.util.spec_from_file_location("book_build", ROOT / "book" / "build.py")
spec.loader.exec_module(maker := importlib.util.module_from_spec(spec))
PAGES = len(maker.pages_of(maker.datasets_of("smoke")))
pytestmark = [pytest.mark.slow]


@pytest.fixture(scope="module")
def env(tmp_path_factory):
    """A cache of its own, and the data files where they lie beside the checkout."""
    found = {"SAMLIB_DATA": str(SHARED)} if "SAMLIB_DATA" not in os.environ and SHARED.is_dir() else {}
    return os.environ | found | {"SAMLIB_CACHE": str(tmp_path_factory.mktemp("cache")), "OMP_NUM_THREADS": "1"}


def build(output, env, *more):
    command = [sys.executable, str(ROOT / "book" / "build.py"), "--profile", "smoke", "--output", str(output), *more]
    return subprocess.run(command, capture_output=True, text=True, env=env)


@pytest.fixture(scope="module")
def book(tmp_path_factory, env):
    output = tmp_path_factory.mktemp("book")
    done = build(output, env)
    assert done.returncode == 0, done.stdout + done.stderr
    return output, done.stdout


@pytest.fixture(scope="module")
def site(book):
    """The built book over local http."""
    html = book[0] / "build" / "_build" / "html"

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=html)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        pages = sorted(
            p.relative_to(html) for p in html.rglob("*.html") if "_static" not in p.parts
        )  # the theme's templates
        yield f"http://127.0.0.1:{server.server_port}/", pages
        server.shutdown()


def is_trouble(message) -> bool:
    """An error or a warning; that the page which only leads on to the first one has no icon is none."""
    return message.type in ("error", "warning") and not message.location["url"].endswith("/favicon.ico")


def test_every_page_reads_with_no_network_and_no_error(site, browser):
    """No failed request, none that leaves the machine, nothing in the console, every figure drawn and described."""
    address, pages = site
    figures, sources = {}, []
    for path in pages:
        page, trouble = browser.new_page(), []
        page.on("console", lambda m, t=trouble: t.append(f"{m.text} {m.location['url']}") if is_trouble(m) else None)
        page.on("pageerror", lambda e, t=trouble: t.append(str(e)))
        page.on("requestfailed", lambda r, t=trouble: t.append(f"failed {r.url}"))
        page.on("response", lambda r, t=trouble: t.append(f"{r.status} {r.url}") if r.status >= 400 else None)
        page.on(
            "request", lambda r, t=trouble: None if r.url.startswith((address, "data:")) else t.append(f"left: {r.url}")
        )
        page.goto(address + str(path), wait_until="networkidle")
        images = page.locator(".cell_output img, figure img")
        for i in range(images.count()):
            image = images.nth(i)
            assert image.evaluate("e => e.complete && e.naturalWidth > 50"), f"{path}: an image is not drawn"
            assert len(image.get_attribute("alt") or "") > 20, f"{path}: a figure without a description"
            sources.append(image.get_attribute("src"))
        figures[path.stem] = images.count()
        assert page.locator(".output.traceback, .cell_output .stderr").count() == 0, path
        assert not trouble, f"{path}: {trouble}"
        page.close()
    assert {source.rpartition(".")[2] for source in sources} == {"png", "svg"}
    for name in ("membership_risk", "memorization"):
        for dataset in ("location30", "digits", "cifar100-coarse_recorded"):
            assert figures[f"{name}_{dataset}"] >= 1, figures


def test_mathematics_is_drawn(site, browser):
    page = browser.new_page()
    page.goto(site[0] + "notebooks/memorization_digits.html", wait_until="networkidle")
    assert page.locator("mjx-container svg").count() > 0
    page.close()


def test_a_second_build_reuses_every_page_and_one_changed_notebook_is_run_again(book, env):
    output, first = book
    assert first.count("executed  ") == PAGES
    again = build(output, env)
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("reused    ") == PAGES
    assert "executed" not in again.stdout
    path = output / "notebooks" / "memorization_digits.ipynb"
    notebook = json.loads(path.read_text())
    notebook["metadata"]["samlib"]["fingerprint"] = "of something else"
    path.write_text(json.dumps(notebook))
    third = build(output, env)
    assert third.stdout.count("reused    ") == PAGES - 1
    assert "executed  memorization_digits.ipynb" in third.stdout


def test_a_notebook_that_fails_shows_its_own_error_and_the_others_are_built(book, env):
    output, _ = book
    driver = (
        "import sys, build; build.ALONE['theory_checks'] = {'trialz': 1};"
        f"sys.argv = ['build', '--profile', 'smoke', '--output', {str(output)!r}]; sys.exit(build.main())"
    )
    done = subprocess.run(
        [sys.executable, "-c", driver], capture_output=True, text=True, env=env | {"PYTHONPATH": str(ROOT / "book")}
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stdout.count("reused    ") == PAGES - 1
    assert "FAILED: theory_checks.ipynb; its page shows the error." in done.stdout
    page = (output / "build" / "_build" / "html" / "notebooks" / "theory_checks.html").read_text()
    assert "There is no parameter" in page
    assert "trialz" in page


def papermill(tmp_path, env, name, *parameters):
    command = [
        sys.executable,
        "-m",
        "papermill",
        str(ROOT / "notebooks" / f"{name}.ipynb"),
        str(tmp_path / "out.ipynb"),
    ]
    return subprocess.run(
        [*command, *parameters, "--no-progress-bar"], capture_output=True, text=True, env=env, cwd=tmp_path
    )


def test_a_notebook_runs_alone_with_other_parameters(tmp_path, env):
    done = papermill(tmp_path, env, "memorization", "-p", "dataset", "digits", "-p", "rho", "0.1", "-p", "n_models", "24",
                     "-p", "epochs", "3", "-p", "optimizer", "asam")  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = (tmp_path / "out.ipynb").read_text()
    assert "ASAM" in said
    assert "image/png" in said or "image/svg" in said


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (["-p", "rhoo", "0.1"], "ParameterError: There is no parameter 'rhoo', only dataset"),
        (["-p", "rho", "minus one"], "ParameterError: Parameter 'rho' = 'minus one': input should be a valid number"),
        (["-p", "dataset", "nothing"], "dataset 'nothing' is neither one of digits, location30"),
    ],
)
def test_a_bad_parameter_fails_at_once_with_one_sentence(tmp_path, env, parameters, message):
    done = papermill(tmp_path, env, "membership_risk", *parameters)
    assert done.returncode == 1
    assert message in done.stderr
    with contextlib.suppress(FileNotFoundError):
        assert "image/png" not in (tmp_path / "out.ipynb").read_text()
