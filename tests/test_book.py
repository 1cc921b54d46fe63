"""The book, built with no network and read in a real browser."""

import http.server
import importlib.metadata
import importlib.util
import json
import os
import re
import subprocess
import sys
import threading
import zipfile
from functools import partial
from pathlib import Path

import pytest
import yaml

from samlib.paper.records import records
from samlib.paper.style import dataset_title

ROOT = Path(__file__).parents[1]
spec = importlib.util.spec_from_file_location("book_build", ROOT / "book" / "build.py")
spec.loader.exec_module(maker := importlib.util.module_from_spec(spec))
PAGES = len(maker.pages_of(["subclasses", "digits"], {}))
pytestmark = [pytest.mark.slow]


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A copy of the checkout with nothing beside it."""
    tree = tmp_path_factory.mktemp("clone") / "samlib"
    named = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True, check=True
    )
    for file in filter(None, named.stdout.decode().split("\0")):
        if (ROOT / file).is_file():  # one that was deleted is still listed
            (tree / file).parent.mkdir(parents=True, exist_ok=True)
            (tree / file).write_bytes((ROOT / file).read_bytes())
    return tree


@pytest.fixture(scope="module")
def env(tree, no_network):
    return no_network | {"PYTHONPATH": str(tree)}


def build(tree, env, *more):
    command = [sys.executable, str(tree / "book" / "build.py"), "--profile", "smoke", *more]
    return subprocess.run(command, capture_output=True, text=True, env=env, cwd=tree)


@pytest.fixture(scope="module")
def book(tree, env):
    """The book with no network: its folder, and what the build printed."""
    done = build(tree, env)
    assert done.returncode == 0, done.stdout + done.stderr
    return tree / "book", done.stdout


def text_of(book, page):
    return (book[0] / "build" / "_build" / "html" / "notebooks" / f"{page}.html").read_text()


def test_with_no_network_what_cannot_be_had_is_left_out_and_said(book):
    said = [line for line in book[1].splitlines() if line.startswith("left out")]
    assert len(said) == 4
    kept = "(its recorded results are shown, without pictures)"
    assert f"location30 {kept}: location30 could not be downloaded (no answer from raw.githubusercontent.com" in said[0]
    assert "put dataset_location.tgz into $SAMLIB_DATA/location30/" in said[0]
    for name, source in (("cifar10", "cifar10"), ("cifar100-coarse", "cifar100"), ("cifar100", "cifar100")):
        assert any(f" {name} {kept}: {source} could not be" in line for line in said), name
    first = text_of(book, "introduction")
    assert "put dataset_location.tgz into $SAMLIB_DATA/location30/" in first
    assert "Location-30 (2048 + 2048 models" in first


def test_each_section_is_one_page_of_all_data_sets_and_says_where_each_comes_from(book):
    made = {path.stem for path in (book[0] / "notebooks").glob("*.ipynb")}
    toc = yaml.safe_load((book[0] / "_toc.yml").read_text())
    listed = [toc["root"], *(chapter["file"] for part in toc["parts"] for chapter in part["chapters"])]
    assert made == {name.removeprefix("notebooks/") for name in listed if name.startswith("notebooks/")}
    kept = {about["experiments"][0]["dataset"]: about for about in records(maker.RESULTS).values()}
    for page in maker.SECTIONS:
        text = re.sub(r"</?(?!em\b)[^>]*>", "", text_of(book, page))  # words of the glossary have marks of their own
        for dataset in ("subclasses", "digits", "location30", "cifar10", "cifar100-coarse"):
            how = "Recorded" if dataset in kept else "Live"
            assert re.search(f"<em>{how}: [^<]*[0-9] [^<]*on {re.escape(dataset_title(dataset))}", text), page
        assert "{runs}" not in text
        said = 0
        for cell in json.loads((book[0] / "notebooks" / f"{page}.ipynb").read_text())["cells"]:
            caption = cell["metadata"].get("mystnb", {}).get("figure", {}).get("caption", "")
            panels = [
                re.split("[:\n]", t)[0]
                for o in cell.get("outputs", ())
                for t in o.get("metadata", {}).get("shown", ())
                if t
            ]
            if panels and " of each" in caption:
                said += 1
                assert set(re.findall(r"([A-Z][^;.]*?) \((?:MLP|CNN|ResNet-18), ", caption)) == set(panels), caption
        assert said > 3, page  # captions that say what the figure was made of
    for page in ("ablations", "theory_checks"):
        assert "<em>Live: " in text_of(book, page)
    recorded = text_of(book, "ablations_cifar100-coarse")
    assert "<em>Recorded: " in recorded
    assert re.search(r"<h1>Ablations: CIFAR-100 \(20 classes\)<", recorded)


def test_a_data_set_that_is_there_again_changes_the_pages_that_show_it():
    gone = {"location30": "gone"}
    here, without = maker.pages_of(["digits", "location30"], {}), maker.pages_of(["digits"], gone)
    assert here["introduction"][1]["datasets"] == ["digits", "location30"]
    for page, source in here.items():
        plans = [maker.plan(*source, "smoke", missing)["fingerprint"] for missing in ({}, gone)]
        assert (plans[0] != plans[1]) == ("location30" in source[1].get("datasets", ())), page
    assert set(here["memorization"][1]["datasets"]) == set(without["memorization"][1]["datasets"])  # its record stays


def test_only_known_subclasses_are_shown_against(book):
    for page, found in {
        "memorization": "memorization", "attackers": "AUC, confidence", "influence": "influence on the majority",
    }.items():  # fmt: skip
        text = text_of(book, page)
        (table,) = (each for each in re.findall(r"(?s)<table.*?</table>", text) if "minority − majority" in each)
        assert found in table
        assert "Digits" not in table


def test_the_page_on_how_it_was_made_has_every_page_and_its_seconds(book):
    made = (book[0] / "build" / "_build" / "html" / "made.html").read_text()
    rows = re.findall(r'href="notebooks/(\w[^"]*?)\.html".*?<td><p>(\d+)</p></td>', made, re.DOTALL)
    assert {name for name, _ in rows} >= {path.stem for path in (book[0] / "notebooks").glob("*.ipynb")}
    assert sum(int(seconds) for _, seconds in rows) > 0
    assert f"torch {importlib.metadata.version('torch')}" in made


def test_every_page_says_how_to_make_it_and_names_no_path_of_the_machine(book, tree):
    html = book[0] / "build" / "_build" / "html" / "notebooks"
    for path in (book[0] / "notebooks").glob("*.ipynb"):
        text = (html / f"{path.stem}.html").read_text()
        assert f"{tree}/" not in path.read_text(), path
        assert f"{tree}/" not in text, path
        line = re.search(r"papermill notebooks/(\w+)\.ipynb page\.ipynb", re.sub(r"<[^>]*>", "", text))
        assert line, path
        download, wheel = re.findall(r'download internal" download="" href="([^"]+)"', text)
        assert zipfile.is_zipfile(html / wheel)
        notebook = json.loads((html / download).read_text())
        assert Path(wheel).name in "".join(notebook["cells"].pop(1)["source"])
        assert notebook == json.loads((ROOT / "notebooks" / f"{line[1]}.ipynb").read_text())


def test_the_line_of_a_page_is_one_that_papermill_takes(book, tree, env, tmp_path):
    source = "".join(json.loads((book[0] / "notebooks" / "ledger.ipynb").read_text())["cells"][-1]["source"])
    line = re.search(r"```\n(papermill .*?)\n```", source, re.DOTALL)[1].replace(
        "page.ipynb", str(tmp_path / "page.ipynb")
    )
    papermill = f"{sys.executable} -m {line} --no-progress-bar"
    done = subprocess.run(["bash", "-c", papermill], cwd=tree, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "page.ipynb").exists()


def test_code_leads_to_the_library_and_the_library_explains_its_names(book):
    html = book[0] / "build" / "_build" / "html"
    links = set(re.findall(r'codeautolink-a" href="\.\./api\.html#([^"]+)"', text_of(book, "membership_risk")))
    assert {"samlib.paper.notebook.study", "samlib.paper.membership.roc_curves"} <= links
    api = (html / "api.html").read_text()
    assert all(f'id="{name}"' in api for name in links)
    assert "Alias for field number" not in api


def test_words_and_citations_show_their_meaning(book):
    html = book[0] / "build" / "_build" / "html"
    found = r'<a class="samlib-term reference internal" href="../glossary.html#(term-[^"]+)" title="[^"]{20,}"'
    words = re.findall(found, text_of(book, "introduction"))
    assert len(set(words)) == len(words) > 3  # each where it first stands
    assert all(f'id="{word}"' in (html / "glossary.html").read_text() for word in words)
    assert 'title="Young In Kim, Andrea Agiollo' in text_of(book, "introduction")
    assert 'href="https://arxiv.org/abs/2310.00488"' in (html / "references.html").read_text()


def test_no_executed_notebook_keeps_widget_state(book):
    for path in (book[0] / "notebooks").glob("*.ipynb"):
        assert "widgets" not in json.loads(path.read_text())["metadata"], path


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


def stands_for_others(path: Path) -> bool:
    """Whether a page is looked at. Those of source code are alike: one stands for all."""
    return "_modules" not in path.parts or path.stem in ("index", "cards")


def is_trouble(message) -> bool:
    """An error or a warning; that the page which only leads on to the first one has no icon is none."""
    return message.type in ("error", "warning") and not message.location["url"].endswith("/favicon.ico")


def test_every_page_reads_with_no_network_and_no_error(site, browser):
    """No failed request, none that leaves the machine, nothing in the console, every figure drawn and described."""
    address, pages = site[0], filter(stands_for_others, site[1])
    figures, sources, context = {}, [], browser.new_context()  # one for all pages, which share what they load
    for path in pages:
        page, trouble = context.new_page(), []
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
    context.close()
    assert {source.rpartition(".")[2] for source in sources} == {"png", "svg"}
    assert all(figures[name] >= 4 for name in maker.SECTIONS), figures


def test_axe_finds_no_fault_on_any_page(site, browser, faults):
    """In the light on a wide screen and in the dark on a phone."""
    address, pages = site
    # Some time after the last change, the theme lets the keyboard reach what scrolls: wait for that, but not for ever.
    settled = """async theme => {
        document.documentElement.dataset.theme = theme;
        await window.MathJax?.startup?.promise;
        const all = [...document.querySelectorAll("pre, .cell_output > .output")];
        const out_of_reach = () => all.some(each => each.scrollWidth > each.clientWidth && each.tabIndex < 0);
        for (let i = 0; i < 50 && (i < 4 || out_of_reach()); i++) await new Promise(done => setTimeout(done, 100));
    }"""
    found, page = [], browser.new_page()
    for path in pages:
        if not stands_for_others(path) or path == Path("index.html"):  # which only leads on to the first page
            continue
        page.goto(address + str(path))
        for theme, width in (("light", 1280), ("dark", 390)):
            page.set_viewport_size({"width": width, "height": 800})
            page.evaluate(settled, theme)
            found += [f"{path}: {theme}: {fault}" for fault in faults(page)]
    page.close()
    assert not found, "\n".join(found)


def test_cards_fit_a_phone_and_their_links_lead_somewhere(book, site, browser):
    address, pages = site
    page, ids, links = browser.new_page(viewport={"width": 390, "height": 800}), [], []
    for name in ("introduction", "ledger"):
        page.goto(f"{address}notebooks/{name}.html", wait_until="networkidle")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        table = page.locator(".samlib-glance").first
        assert table.evaluate("each => each.scrollWidth <= each.parentElement.clientWidth")
        assert table.locator("tbody tr").count() > 20
        assert not table.locator("svg").first.is_visible()
        ids += page.eval_on_selector_all(".samlib-card", "cards => cards.map(e => e.id)")
        found = "links => links.map(e => [e.href.split('#')[0], e.hash.slice(1), e.checkVisibility()])"
        links += page.eval_on_selector_all(":is(.samlib-card, .samlib-glance) a", found)
    page.close()
    assert len(set(ids)) == len(ids) > 0
    assert {target.removeprefix(address) for target, _, _ in links} <= {str(path) for path in pages}
    assert {name for target, name, _ in links if target.endswith("/ledger.html")} == set(ids)
    assert all(shown for _, _, shown in links)
    html = book[0] / "build" / "_build" / "html"
    for target, name, _ in links:
        assert not name or f'id="{name}"' in (html / target.removeprefix(address)).read_text(), (
            f"{target} has no {name}"
        )


def test_a_figure_fits_a_phone_and_leads_to_its_full_size(site, browser):
    page = browser.new_page(viewport={"width": 390, "height": 800})
    page.goto(site[0] + "notebooks/memorization.html", wait_until="networkidle")
    each = "all => all.map(e => [e.getBoundingClientRect().right, e.closest('a').href === e.src])"
    found = page.eval_on_selector_all("figure img", each)
    page.close()
    assert len(found) > 3
    assert all(right <= 390 and leads for right, leads in found), found


def raw_tex(html: str) -> list[str]:
    """TeX that a reader sees as it was typed: outside code, and where MathJax does not look. A folder's variable is none."""
    text = re.sub(r'(?s)<(pre|code|script|style|svg)\b.*?</\1>|<(span|div) class="math\b.*?</\2>|<[^>]*>', " ", html)
    return re.findall(r".{0,30}(?:\$(?!SAMLIB_)|\\[A-Za-z]+).{0,30}", text)


def test_mathematics_is_drawn(book, site, browser):
    """On one page by MathJax; no page has any that MathJax does not find."""
    page = browser.new_page()
    page.goto(site[0] + "notebooks/memorization.html", wait_until="networkidle")
    assert page.locator("mjx-container svg").count() > 0
    page.close()
    tried = ("<p>$x$</p>", "<li>\\rho</li>", '<div class="math notranslate">\\rho</div> <code>$</code>')
    assert [len(raw_tex(html)) for html in tried] == [1, 1, 0]
    found = {path: raw_tex((book[0] / "build" / "_build" / "html" / path).read_text()) for path in site[1]}
    assert not {str(path): texts for path, texts in found.items() if texts}


def test_theorems_have_boxes_with_the_numbers_of_the_notebook(book):
    source = json.loads((ROOT / "notebooks" / "theory_checks.ipynb").read_text())
    said = "\n".join("".join(cell["source"]) for cell in source["cells"])
    typed = re.findall(r'<a id="([\w-]+)"></a>\*\*(\w+) (\d+) \((.*)\)\.\*\*', said)
    page = text_of(book, "theory_checks")
    head = r'<p class="admonition-title"><span [^>]*>\w+ (\d+) </span> \((.*)\)</p>'
    box = rf'<div class="proof (\w+) admonition" id="([\w-]+)">\s*{head}'
    shown = [(label, kind.capitalize(), number, title) for kind, label, number, title in re.findall(box, page)]
    assert shown == typed
    assert page.count('<div class="proof admonition"') == said.count("**Proof.**") > 10
    for label, kind, number, _ in typed:
        assert set(re.findall(rf'href="#{label}"[^>]*>([^<]*)<', page)) <= {f"{kind} {number}"}


def test_tables_look_alike(book):
    for path in (book[0] / "build" / "_build" / "html").rglob("*.html"):
        assert not re.search(r'<table[^>]*(border=|class="dataframe)', path.read_text()), path


def test_a_second_build_runs_again_what_changed_and_shows_the_error_of_what_fails(tree, book, env):
    """The last test of this book, whose pages it changes."""
    output, first = book
    assert first.count("executed  ") == PAGES
    path = output / "notebooks" / "explorer.ipynb"
    notebook = json.loads(path.read_text())
    notebook["metadata"]["samlib"]["fingerprint"] = "of something else"
    path.write_text(json.dumps(notebook))
    failing = "ablations_cifar100-coarse"  # one of several pages of a notebook, with a heading of its own
    driver = (
        f"import sys, build; pages = build.pages_of; bad = {{'{failing}': {{'trialz': 1}}}};"
        "build.pages_of = lambda *a: {n: (s, p | bad.get(n, {})) for n, (s, p) in pages(*a).items()};"
        "sys.argv = ['build', '--profile', 'smoke']; sys.exit(build.main())"
    )
    path = os.pathsep.join([str(tree / "book"), str(tree)])
    done = subprocess.run(
        [sys.executable, "-c", driver], capture_output=True, text=True, env=env | {"PYTHONPATH": path}
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stdout.count("reused    ") == PAGES - 2
    assert "executed  explorer.ipynb" in done.stdout
    assert f"FAILED: {failing}.ipynb; its page shows the error." in done.stdout
    page = text_of(book, failing)
    assert re.search(r"<h1>Ablations: CIFAR-100 \(20 classes\)<", page)
    assert "There is no parameter" in page
    assert "trialz" in page
