"""The explorers' notebook in a real JupyterLab: what the page moves, Python reads, and the other way round."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from samlib.widgets import MixtureExplorer

ROOT = Path(__file__).parents[1]
pytestmark = [pytest.mark.slow]


@pytest.fixture
def lab(tmp_path):
    """The address of a Lab of its own, with a copy of the notebook."""
    if not os.environ.get("CI"):
        pytest.importorskip("jupyterlab", reason="JupyterLab is not here; `make lab` installs it")
    folders = {name: str(tmp_path / name.lower()) for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "IPYTHONDIR")}
    (tmp_path / "notebooks").mkdir()
    shutil.copy(ROOT / "notebooks" / "explorer.ipynb", tmp_path / "notebooks")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = [
        f"--ServerApp.port={port}", "--ServerApp.ip=127.0.0.1", "--no-browser", "--allow-root", "--IdentityProvider.token=",
        f"--ServerApp.root_dir={tmp_path / 'notebooks'}", "--LabApp.expose_app_in_browser=True",
        f"--LabApp.workspaces_dir={tmp_path / 'workspaces'}", f"--LabApp.user_settings_dir={tmp_path / 'settings'}",
    ]  # fmt: skip
    with (tmp_path / "lab.log").open("w") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", *options], stdout=log, stderr=log, env=os.environ | folders
        )
        address = f"http://127.0.0.1:{port}/"
        try:
            for _ in range(600):
                try:
                    urllib.request.urlopen(address + "api", timeout=5).close()
                    break
                except OSError:
                    assert server.poll() is None, (tmp_path / "lab.log").read_text()
                    time.sleep(0.1)
            yield address
        finally:
            server.terminate()
            server.wait()


def test_the_page_and_python_move_each_other(lab, browser):
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    page.set_default_timeout(120_000)
    page.goto(lab + "lab/tree/explorer.ipynb?reset")
    page.wait_for_selector(".jp-Notebook .jp-CodeCell")
    page.wait_for_function(  # a role of MyST is drawn, not shown as it is typed
        "document.querySelector('.jp-Notebook').innerText.includes('The setting of')"
        "&& !document.querySelector('.jp-Notebook').innerText.includes('{numref}')"
    )
    page.wait_for_function("jupyterapp.shell.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'")
    page.evaluate("jupyterapp.commands.execute('notebook:run-all-cells')")
    for name in ("mixture", "theory"):
        page.wait_for_selector(f".samlib-{name} .samlib-picture[aria-label]", state="attached")
    slider = page.locator(".samlib-mixture input[name=rho]")
    slider.scroll_into_view_if_needed()
    slider.fill("2")
    say = """async (code) => {
      const kernel = jupyterapp.shell.currentWidget.sessionContext.session.kernel, said = [];
      const future = kernel.requestExecute({ code });
      future.onIOPub = (message) => said.push(message.content.text ?? message.content.traceback?.join("\\n") ?? "");
      await future.done;
      return said.join("");
    }"""
    assert page.evaluate(say, "print(mixture.rho, mixture.frame().loc['error', 'SAM'])") == (
        f"2.0 {MixtureExplorer(rho=2).frame().loc['error', 'SAM']}\n"
    )
    assert page.evaluate(say, "mixture.rho = 0.5") == ""
    page.wait_for_function("document.querySelector('.samlib-mixture input[name=rho]').value === '0.5'")
    cells = page.locator(".samlib-mixture .samlib-numbers td").all_inner_texts()
    assert float(cells[1]) == pytest.approx(MixtureExplorer(rho=0.5).frame().loc["error", "SAM"], abs=5.1e-5)
    assert page.locator(".jp-Notebook [data-mime-type='application/vnd.jupyter.stderr']").count() == 0
    page.close()
