"""What is published: a wheel and an sdist, built and used where there is no checkout."""

import os
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import nbformat
import numpy as np
import pytest

import samlib

ROOT = Path(__file__).parents[1]
pytestmark = [pytest.mark.slow]


def call(*command, **options):
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def tracked(folder):
    found = subprocess.run(["git", "ls-files", "-co", "--exclude-standard", folder], cwd=ROOT, capture_output=True)
    return {name for name in found.stdout.decode().splitlines() if (ROOT / name).is_file()}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """An sdist of the checkout, and the wheel that is built from that sdist alone."""
    folder = tmp_path_factory.mktemp("dist")
    call(sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", folder, cwd=ROOT)
    (sdist,) = folder.iterdir()
    with tarfile.open(sdist) as file:
        file.extractall(folder, filter="data")
    tree = folder / sdist.name.removesuffix(".tar.gz")
    call(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder, cwd=tree)
    (wheel,) = folder.glob("*.whl")
    return tree, wheel


def borrowing(folder):
    """A new environment without samlib. This one lends what samlib depends on, and not the checkout."""
    venv.create(folder, symlinks=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "lent.pth").write_text(sysconfig.get_path("purelib") + "\n")
    lent = {"JUPYTER_PATH": str(Path(sys.prefix) / "share" / "jupyter")}
    return folder / "bin" / "python", {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | lent


@pytest.fixture(scope="module")
def fresh(built, tmp_path_factory):
    """A new environment with the wheel."""
    python, env = borrowing(tmp_path_factory.mktemp("fresh"))
    call(sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", "--no-index", built[1])
    return python, env


def test_they_hold_every_file_of_the_library_and_the_sdist_all_that_the_book_needs(built):
    tree, wheel = built
    files = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("samlib/")}
    assert files == tracked("samlib")
    for name in tracked(".") - {".gitignore"}:
        assert (tree / name).read_bytes() == (ROOT / name).read_bytes(), name
    assert wheel.name.startswith(f"samlib-{samlib.__version__}-")


def test_an_auditor_needs_no_checkout(fresh, tmp_path):
    python, env = fresh
    where = call(python, "-c", "import samlib; print(samlib.__file__)", cwd=tmp_path, env=env)
    assert Path(where.strip()).is_relative_to(python.parents[1])
    rng = np.random.default_rng(0)
    member = rng.random((16, 200)) < 0.5
    np.savez(tmp_path / "signals.npz", logit=rng.normal(size=member.shape) + 2 * member, member=member)
    said = call(python.with_name("samlib"), "audit", "signals.npz", "--output", "page.html", cwd=tmp_path, env=env)
    assert "LiRA online" in said
    assert "What these models leak" in (tmp_path / "page.html").read_text()


def test_a_rerunner_trains_and_a_reader_draws_without_a_checkout(fresh, tmp_path):
    python, env = fresh
    env = env | {"SAMLIB_CACHE": str(tmp_path / "cache")}
    small = ["--dataset", "digits", "--n-models", "2", "--epochs", "1"]
    assert call(python.with_name("samlib"), "train", *small, cwd=tmp_path, env=env)
    page = "from samlib.paper.explore.page import write_page; print(len(write_page('explorer.html').read_text()))"
    assert int(call(python, "-c", page, cwd=tmp_path, env=env)) > 10_000


def test_the_first_cell_of_a_downloaded_notebook_installs_the_library(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "book")
    import build

    build.to_download(tmp_path / "downloads")
    python, env = borrowing(tmp_path / "new")
    first = nbformat.read(tmp_path / "downloads" / "memorization.ipynb", 4).cells[1].source
    run = "import IPython; IPython.start_ipython(['--no-banner', '--no-confirm-exit', '--colors=nocolor', 'first.ipy'])"
    (tmp_path / "downloads" / "first.ipy").write_text(f"{first}\nimport samlib\nprint(samlib.__file__)\n")
    missing = subprocess.run([python, "-c", "import samlib"], capture_output=True, cwd=tmp_path, env=env)
    assert b"ModuleNotFoundError" in missing.stderr
    said = call(
        python, "-c", run, cwd=tmp_path / "downloads", env=env | {"PIP_NO_INDEX": "1", "IPYTHONDIR": str(tmp_path)}
    )
    assert Path(said.splitlines()[-1]).is_relative_to(tmp_path / "new")
