"""What happens where there is no network: public data sets, and executed notebooks that have to be read without one."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from samlib.data import NotAtHand, files, load_dataset, shape_of
from samlib.widgets import MixtureExplorer

ROOT = Path(__file__).parents[1]


@pytest.fixture
def no_files(monkeypatch, tmp_path):
    monkeypatch.setenv("SAMLIB_DATA", str(tmp_path / "none"))
    for name in ("SAMLIB_OFFLINE", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)


def through(monkeypatch, proxy):
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.setenv(name, proxy)


PUBLIC = {
    "location30": r"put dataset_location.tgz into \$SAMLIB_DATA/location30/",
    "texas100": r"put dataset_texas.tgz into \$SAMLIB_DATA/texas100/",
    "cifar100-coarse": r"put train.parquet and test.parquet into \$SAMLIB_DATA/cifar100/",
    "fashion_mnist": r"put train.parquet and test.parquet into \$SAMLIB_DATA/fashion_mnist/",
}


@pytest.mark.parametrize("name", PUBLIC)
def test_a_proxy_that_refuses_is_one_sentence(name, no_files, monkeypatch, tmp_path):
    through(monkeypatch, "http://127.0.0.1:9")
    with pytest.raises(
        NotAtHand, match=rf"could not be downloaded \(no answer from .*refused\); {PUBLIC[name]}"
    ) as error:
        load_dataset(name)
    assert "\n" not in str(error.value)
    assert error.value._render_traceback_() == [f"NotAtHand: {error.value}"]
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and p.suffix != ".lock"]


def test_a_network_that_swallows_everything_is_waited_for_a_moment_only(no_files, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes the connection and says nothing
        through(monkeypatch, f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setattr(files, "PATIENCE", 0.3)
        with pytest.raises(NotAtHand, match="no answer from raw.githubusercontent.com: "):
            load_dataset("location30")


def test_the_network_is_left_alone_where_the_user_says_so(no_files, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        through(monkeypatch, f"http://127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.setenv("SAMLIB_OFFLINE", "1")
        with pytest.raises(NotAtHand, match="SAMLIB_OFFLINE is set"):
            load_dataset("cifar10")
        with pytest.raises(TimeoutError):
            server.accept()


def test_data_that_need_no_network_are_at_hand(no_files, monkeypatch):
    through(monkeypatch, "http://127.0.0.1:9")
    for name in ("digits", "subclasses"):
        assert shape_of(name).at_hand
        assert len(load_dataset(name).y_train) == shape_of(name).n_train
    assert not shape_of("location30").at_hand


@pytest.mark.slow
@pytest.mark.parametrize("answers", [True, False])
def test_a_widget_is_live_only_where_somebody_can_use_it(answers):
    """papermill and nbconvert say that nobody can answer a prompt; JupyterLab says that somebody can."""
    from jupyter_client.manager import start_new_kernel

    manager, client = start_new_kernel(kernel_name="python3")
    try:
        kinds, shown = [], []
        client.execute("from samlib.widgets import MixtureExplorer\nMixtureExplorer(rho=3)", allow_stdin=answers)
        while True:
            message = client.get_iopub_msg(timeout=60)
            kinds.append(message["msg_type"])
            if message["msg_type"] in ("execute_result", "error"):
                shown.append(message["content"])
            if message["msg_type"] == "status" and message["content"]["execution_state"] == "idle" and shown:
                break
        assert ("comm_open" in kinds) == answers
        assert ("application/vnd.jupyter.widget-view+json" in shown[0]["data"]) == answers
        assert '"rho": 3.0' in shown[0]["data"]["text/html"]
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def test_a_widget_without_a_kernel_is_as_before():
    data, _ = MixtureExplorer()._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in data


@pytest.mark.slow
def test_a_notebook_that_papermill_executed_and_nbconvert_converted_shows_its_picture_with_no_network(
    tmp_path, browser
):
    pytest.importorskip("nbconvert", reason="nbconvert is not installed")
    import nbformat

    source, out = ROOT / "notebooks" / "explorer.ipynb", tmp_path / "out.ipynb"
    run = [sys.executable, "-m", "papermill", str(source), str(out), "--no-progress-bar"]
    subprocess.run(run, check=True, capture_output=True)
    assert "widgets" not in nbformat.read(out, 4).metadata
    # what nbconvert itself loads on every page is switched off; the widgets' scripts it loads where it finds their state
    own = [f"--HTMLExporter.{name}=" for name in ("require_js_url", "mathjax_url")]
    convert = [sys.executable, "-m", "nbconvert", "--to", "html", str(out), *own]
    done = subprocess.run(convert, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    page, left = browser.new_page(), []
    page.on("request", lambda request: None if request.url.startswith(("file:", "data:")) else left.append(request.url))
    page.goto(out.with_suffix(".html").as_uri(), wait_until="load")
    page.locator(".samlib-mixture svg path").first.wait_for(state="attached", timeout=20_000)
    page.locator(".samlib-theory svg path").first.wait_for(state="attached", timeout=20_000)
    sources = page.evaluate("() => [...document.querySelectorAll('script[src]')].map((e) => e.getAttribute('src'))")
    assert not [source for source in sources if source.startswith("http")]
    assert not left
    page.close()
