"""`samlib audit`, as an auditor calls it: the page in a browser, JSON, limits, and what is wrong on one line."""

import json
import math
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from samlib.report import Report, audit_file, opened

pytestmark = pytest.mark.slow


def audit(*arguments):
    return subprocess.run([sys.executable, "-m", "samlib", "audit", *arguments], capture_output=True, text=True)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """Signals with names that would break out of a page, and out of a figure's text."""
    rng, path = np.random.default_rng(0), tmp_path_factory.mktemp("audit") / "signals.npz"
    member = rng.random((16, 200)) < 0.5
    logit = rng.normal(size=(16, 200)) + 2 * member
    groups = np.array(["<script>document.title = 'x'</script>", r"$\frac{", "a & b"])[np.arange(200) % 3]
    np.savez(path, logit=logit, member=member, groups=groups, labels=np.arange(200) % 2)
    return path


@pytest.fixture(scope="module")
def page(file):
    done = audit(str(file))
    assert done.returncode == 0, done.stderr
    written = file.with_name("signals-audit.html")
    assert done.stdout.strip().endswith(str(written))
    assert "LiRA online" in done.stdout
    return written


def test_the_page_stands_alone_with_its_notebook_and_numbers(page):
    import nbformat

    text = page.read_text()
    assert (
        text.count("image/svg+xml") == len(re.findall('<img alt="[A-Z][^"]{40,}\\."', text)) >= 4
    )  # each said in words
    notebook = nbformat.read(page.with_suffix(".ipynb"), 4)
    assert not [o for cell in notebook.cells for o in cell.get("outputs", []) if o["output_type"] == "error"]
    assert json.loads(page.with_suffix(".json").read_text())["best"] == "LiRA online"


def test_a_page_keeps_the_whole_of_its_name(tmp_path, page):
    found = opened(page.with_suffix(".json"))
    assert [found.page(tmp_path / name).name for name in ("run1.2", "run1.3.html")] == ["run1.2.html", "run1.3.html"]


def test_a_page_says_only_what_it_shows(tmp_path):
    """One target with shadows and tied scores: what it lacks has a reason and no text, and growth is drawn along models."""
    rng = np.random.default_rng(0)
    member = rng.random((12, 300)) < 0.5
    probability = np.where(rng.random((12, 300)) < 0.3, 1.0, rng.random((12, 300)))
    found = audit_file({"probability": probability, "member": member, "target": np.arange(12) == 0})
    text = found.page(tmp_path / "report.html").read_text()
    assert "Traceback" not in text
    assert found.lacking["own_rates"] in text
    assert "accused again and again" not in text
    assert "ties" in text
    assert found.tables["more"].query("~measured")["models"].unique().tolist() == [12]


@pytest.mark.parametrize(("width", "scheme"), [(1100, "light"), (1100, "dark"), (390, "light")])
def test_the_page_in_a_browser(page, browser, faults, width, scheme):
    """No network, script, error or fault that axe finds; nothing wider than the window; what comes from the file is text."""
    opened = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    asked, said = [], []
    opened.on("request", lambda request: asked.append(request.url))
    opened.on("pageerror", lambda error: said.append(str(error)))
    opened.goto(page.as_uri())
    assert opened.evaluate("document.documentElement.scrollWidth") <= width
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    assert said == []
    assert opened.title() == "What these models leak"
    assert opened.locator("script").count() == 0
    assert "<script>document.title" in opened.locator("table", has_text="a & b").first.inner_text()
    dark = opened.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(16, 18, 21)"
    assert dark == (scheme == "dark")
    assert faults(opened) == []
    opened.close()


def test_a_page_of_one_model_that_is_always_certain(tmp_path, browser):
    """Columns without a number plot. What is lacking is one list, not a section each. Tables that scroll say so."""
    rng = np.random.default_rng(0)
    member = rng.random(600) < 0.5
    probability = (rng.random(600) < np.where(member, 0.95, 0.7)).astype(float)
    np.savez(tmp_path / "tree.npz", probability=probability, member=member)
    done = audit(str(tmp_path / "tree.npz"), "--output", str(tmp_path / "tree.html"))
    assert done.returncode == 0, done.stderr
    assert "Balanced accuracy is that of the best threshold" in done.stdout
    assert "correctness (guessed from p > 1/2)" in done.stdout
    found = opened(tmp_path / "tree.json")
    assert found.tables["curves"]["tpr"].isna().any()
    shown = browser.new_page(viewport={"width": 390, "height": 800})
    shown.goto((tmp_path / "tree.html").as_uri())
    titles = shown.locator("h2").all_inner_texts()
    assert titles[-2:] == ["What else more data would show", "What is assumed"]
    assert len(titles) == 4
    text = shown.inner_text("body").replace("\xa0", " ")
    assert all(why in text for why in found.lacking.values())
    assert all(said in text for said in found.headline())
    assert "Balanced accuracy is that of the best threshold" in text
    assert shown.locator(".hint").count() == 1
    assert shown.locator(".hint").is_visible()
    first = shown.locator(".wide td").first
    before = first.bounding_box()["x"]
    shown.locator(".wide").first.evaluate("each => each.scrollLeft = 200")
    assert first.bounding_box()["x"] == before
    assert not re.search(r"\d %", shown.inner_html("body"))  # a line must not break there
    assert shown.evaluate("[...document.querySelectorAll('.wide')].slice(1).every(e => e.scrollWidth <= e.clientWidth)")
    shown.close()


def test_a_reader_who_leaves_the_pipe_leaves_the_page(file, tmp_path):
    command = f"{sys.executable} -m samlib audit {file} --output {tmp_path / 'page.html'} | true"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.stderr == ""
    assert (tmp_path / "page.html").exists()


def test_a_script_gets_json_and_a_status(file):
    done = audit(str(file), "--json", "--fail-above", "auc=0.6", "--fail-above", "tpr@0.1=1")
    assert done.returncode == 3
    assert json.loads(done.stdout)["tables"]["risk"][0]["attack"] == "correctness"
    assert done.stderr.startswith("samlib: auc of ")
    assert done.stderr.count("\n") == 1


def test_what_is_wrong_is_one_line(tmp_path):
    (tmp_path / "bad.npz").write_bytes(b"PK\x03\x04 and no more")
    for arguments, status in (
        ([str(tmp_path / "bad.npz")], 1),
        ([str(tmp_path / "bad.npz"), "--fail-above", "auc"], 2),
        ([str(tmp_path / "bad.npz"), "--fail-above", "auc=60"], 2),
        ([str(tmp_path / "bad.npz"), "--output", str(tmp_path / "page.pdf")], 2),
        ([], 2),
    ):
        done = audit(*arguments)
        assert done.returncode == status
        assert not list(tmp_path.glob("page.*"))
        assert "Traceback" not in done.stderr
        assert status == 2 or done.stderr.count("\n") == 1


def two_attacks(best=(0.502, 0.45, 0.55), other=(0.517, 0.503, 0.531), note="", epsilon=(0.0, 0.0)):
    """The report of two attacks, the first of which was chosen beforehand."""
    risk = [
        (name, measure, *numbers, said)
        for name, auc, bound in zip(("population", "correctness"), (best, other), epsilon, strict=True)
        for measure, numbers, said in (
            ("auc", auc, ""), ("tpr@0.01", (0.02, 0.01, 0.03), note), ("epsilon", (bound, bound, math.inf), "")
        )
    ]  # fmt: skip
    frame = pd.DataFrame(risk, columns=["attack", "measure", "value", "low", "high", "note"])
    return Report({"risk": frame}, {"given": [], "assumed": []}, {}, "population")


def test_the_headline_names_what_succeeds():
    first, *_, last = two_attacks().headline()
    assert first.startswith(
        'The attack "correctness" tells members from the others better than a coin: AUC 0.517 (0.503'
    )
    assert 'The attack "population" does not: AUC 0.502 (0.450 to 0.550).' in first
    assert last == "These counts set no lower bound on epsilon."
    assert repr(two_attacks()) == " ".join(two_attacks().headline())
    first, *_, last = two_attacks((0.6, 0.55, 0.65), epsilon=(0.1, 1.55)).headline()
    assert (
        first == 'The attack "population" tells members from the others better than a coin: AUC 0.600 (0.550 to 0.650).'
    )
    assert last.startswith('The decisions of "correctness" rule out')
    assert "epsilon below 1.55 (delta 0)" in last
    assert two_attacks(other=(0.51, 0.49, 0.53)).headline()[0].startswith('The attack "population" does not tell')


@pytest.mark.parametrize(
    ("note", "said"), [("", "finds 2.0 % of the members (1.0 to 3.0 %)"), ("too few", "too few"), ("ties", "No thr")]
)
def test_the_headline_says_why_a_rate_is_missing(note, said):
    assert next(each for each in two_attacks(note=note).headline() if "1 % of the others" in each).count(said) == 1
