"""Train, execute every notebook with papermill, build the book: what `make book` runs.

A page is executed again only if its notebook, its parameters, the library or the recorded results have changed since, or
whether its data are at hand. Data sets that cannot be had are left out, and stdout and the first page say so.
Exit status: 0; 1 if a notebook failed (its page shows the error, the others are built); 2 if the book did not build.
"""

import argparse
import contextlib
import functools
import hashlib
import importlib.metadata
import json
import multiprocessing
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from pathlib import Path

import nbformat
import pybtex.database
import yaml

import samlib
from samlib.data import NAMES, load_dataset, shape_of
from samlib.data.files import PUBLISHED
from samlib.experiment import pair
from samlib.paper.records import largest, records, sections
from samlib.paper.study import PROFILES, flat, planned
from samlib.paper.style import dataset_title
from samlib.runs import run, workers

BOOK = Path(__file__).resolve().parent
ROOT, RESULTS, EXECUTED = BOOK.parent, BOOK / "results", BOOK / "notebooks"
FIRST = ("introduction", "ledger")  # those that say what could not be had
CHOSEN = tomllib.loads(Path(__file__).with_name("pages.toml").read_text())
SECTIONS, ALONE = CHOSEN["sections"], CHOSEN["alone"]
# Notebooks of many settings, and the parameter that only such a notebook has.
MANY = {"other_optimizers": "optimizers", "ablations": "changed"}
PACKAGES = ("torch", "numpy", "scipy", "matplotlib", "seaborn", "xarray")  # what a page's numbers and figures depend on
TIMEOUT = 1800  # seconds a cell may take
HEADING = "## Run this yourself"
WHEEL = f"samlib-{samlib.__version__}-py3-none-any.whl"
# What stands in a box, to its proof or the cell's end: an anchor, then its kind, number and title in bold, and what it says.
BOXED = re.compile(
    r"""(?:<a\ id="(?P<label>[\w-]+)"></a>)?
    \*\*(?P<kind>Definition|Remark|Lemma|Proposition|Theorem|Corollary|Example|Proof|Important)
    (?:\ \d+\ \((?P<title>[^\n]+)\))?\.\*\*\n(?P<said>.+?)(?=\n\n\*\*Proof\.|\Z)""",
    re.DOTALL | re.VERBOSE,
)
LINK_TO_BOX = re.compile(r"\[[^]]+\]\(#((?:def|rem|lem|prop|thm|cor|ex)-[\w-]+)\)")
say = functools.partial(print, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", choices=PROFILES, default="quick")
    profile = parser.parse_args().profile
    to_download(EXECUTED / "unexecuted")
    datasets, missing = datasets_of(profile)
    sources = pages_of(datasets, missing)
    pages = {f"{page}.ipynb": plan(*source, profile, missing) for page, source in sources.items()}
    stale = {page: todo for page, todo in pages.items() if fingerprint_of(EXECUTED / page) != todo["fingerprint"]}
    for page in pages.keys() - stale.keys():
        say(f"reused    {page}: nothing that it depends on has changed")
    for left in {path.name for path in EXECUTED.glob("*.ipynb")} - pages.keys():
        (EXECUTED / left).unlink()

    failed: list[str] = []
    if stale:
        train(profile, datasets)
        failed = execute(stale)
    (EXECUTED / "made.md").write_text(made(pages))
    if build(strict=not failed):
        say("The book did not build; the messages above say why.")
        return 2
    say(f"Open {BOOK / 'build' / '_build' / 'html' / 'index.html'}")
    for page in failed:
        say(f"FAILED: {page}; its page shows the error.")
    return 1 if failed else 0


def datasets_of(profile: str) -> tuple[list[str], dict[str, str]]:
    """The data sets that have pages, and those that cannot be had, with the reason.

    Each is tried once, all at the same time, before anything is trained: so a dead network costs seconds.
    """
    named = list(filter(None, PROFILES[profile]))
    tried = list(dict.fromkeys([*named, *recorded()]))
    with ThreadPoolExecutor(len(tried)) as pool:
        reasons = dict(zip(tried, pool.map(out_of_reach, tried), strict=True))
    missing = {name: reason for name, reason in reasons.items() if reason}
    for name, reason in missing.items():
        say(f"left out  {name}{all_the_same(name)}: {reason}")
    if missing:
        os.environ["SAMLIB_OFFLINE"] = "1"  # no notebook waits for it again
    return [name for name in named if name not in missing], missing


def all_the_same(name: str) -> str:
    """What there is of a data set that cannot be had."""
    return " (its recorded results are shown, without pictures)" if name in recorded() else ""


def out_of_reach(name: str) -> str | None:
    """Why a data set cannot be had; None where it is at hand now, downloaded if need be."""
    try:
        load_dataset(name) if name in NAMES else shape_of(name)
    except ValueError as error:
        return str(error)
    return None


def pages_of(datasets: list[str], missing: dict[str, str]) -> dict[str, tuple[str, dict]]:
    """Each page's notebook and parameters. Sections show data sets that have a record alone as well."""
    left_out = {dataset_title(name) + all_the_same(name): reason for name, reason in missing.items()}
    results = {"results": str(RESULTS)}
    pages = {name: {"datasets": datasets, "missing": left_out, **results} for name in FIRST}
    for name, section in SECTIONS.items():
        pages[name] = {"datasets": [*dict.fromkeys([*datasets, *recorded(section)])], **results}
    pages["ledger"]["others"] = CHOSEN["others"]
    pages |= ALONE | {name: ALONE[name] | results for name in MANY}
    kept = [about["parameters"] for about in records(RESULTS).values() if "ablations" in sections(about)]
    return {name: (name, parameters) for name, parameters in pages.items()} | {
        f"ablations_{each['dataset']}": ("ablations", {**each, **results, "profile": "quick"}) for each in kept
    }


def recorded(section: str = "membership") -> list[str]:
    """Data sets of which `results` holds a pair of their own recipe, with this section."""
    kept = records(RESULTS)
    names = dict.fromkeys(about["experiments"][0]["dataset"] for about in kept.values())
    paths = {name: largest(RESULTS, pair(dataset=name).values()) for name in names}
    return [name for name, path in paths.items() if path and section in sections(kept[path])]


def plan(name: str, parameters: dict, profile: str, missing: dict[str, str]) -> dict:
    """What executes a page, and a fingerprint of all that the result depends on."""
    source = ROOT / "notebooks" / f"{name}.ipynb"
    parameters = {"profile": profile} | CHOSEN["fewer"].get(profile, {}).get(name, {}) | parameters
    names = parameters.get("datasets", [parameters.get("dataset", "")])
    versions = [sys.version_info[:2], *map(importlib.metadata.version, PACKAGES)]
    used = json.dumps([parameters, versions, sorted({*names} & {*missing})], sort_keys=True)
    digest = hashlib.sha256(used.encode() + source.read_bytes() + shared())
    return {"source": str(source), "parameters": parameters, "fingerprint": digest.hexdigest()}


@functools.cache
def shared() -> bytes:
    """What every page depends on: the library and the recorded results, read once."""
    files = [*sorted((ROOT / "samlib").rglob("*")), *sorted(RESULTS.rglob("*"))]
    return b"".join(file.read_bytes() for file in files if file.is_file() and file.suffix != ".pyc")


def fingerprint_of(path: Path) -> str | None:
    with contextlib.suppress(OSError, ValueError, KeyError):
        return json.loads(path.read_text())["metadata"]["samlib"]["fingerprint"]
    return None


def train(profile: str, datasets: list[str]) -> None:
    """All models that the notebooks read, before any notebook, so that progress shows here and not inside a kernel."""
    experiments = [e for d in datasets for two in planned(profile, dataset=d) for e in two.values()]
    for name, of in MANY.items():
        asked = plan(name, ALONE[name] | {"results": str(RESULTS)}, profile, {})["parameters"]
        study = samlib.study({of: None} | asked)
        experiments += [e for d in study.experiments if not study.shown(d) for e in flat(study.experiments[d])]
    experiments = list({(e.key, e.n_models): e for e in experiments}.values())
    with workers(experiments) as client:
        for i, experiment in enumerate(experiments, 1):
            say(f"models    {i} of {len(experiments)}: {experiment.n_models} of {experiment}")
            run(experiment, cluster=client)


def execute(stale: dict[str, dict]) -> list[str]:
    """Execute pages in as many processes as there are cores; returns those that failed."""
    failed, start = [], time.perf_counter()
    workers = min(len(stale), getattr(os, "process_cpu_count", os.cpu_count)())
    say(f"notebooks {len(stale)} to execute, {workers} at a time")
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        jobs = {pool.submit(execute_page, page, todo): page for page, todo in stale.items()}
        for done, job in enumerate(as_completed(jobs), 1):
            seconds, error, warnings = job.result()
            left = (time.perf_counter() - start) / done * (len(jobs) - done)
            spent = f"{jobs[job]} in {seconds:.0f} s ({done} of {len(jobs)}, about {left:.0f} s left)"
            say(f"FAILED    {spent}: {error}" if error else f"executed  {spent}")
            for warning in warnings:
                say(f"          warned: {warning}")
            failed += [jobs[job]] if error else []
    return failed


def execute_page(page: str, todo: dict) -> tuple[float, str | None, list[str]]:
    """One notebook by papermill, with its captions and fingerprint; returns seconds, the error if it failed, and its warnings."""
    os.environ["OMP_NUM_THREADS"] = "1"
    import papermill

    start, path, error = time.perf_counter(), EXECUTED / page, None
    try:
        papermill.execute_notebook(
            todo["source"], path, todo["parameters"], progress_bar=False, execution_timeout=TIMEOUT, coalesce_streams=True,
            cwd=EXECUTED, kernel_name="python3", extra_arguments=["--log-level=40"],
        )  # fmt: skip
    except Exception as problem:  # an error in a cell, a dead kernel, a time-out: the page says so
        kind, said = getattr(problem, "ename", type(problem).__name__), getattr(problem, "evalue", problem)
        error = f"{kind}: {said}".splitlines()[0]
    seconds, notebook = time.perf_counter() - start, nbformat.read(path if path.exists() else todo["source"], 4)
    if not any(HEADING in cell.source for cell in notebook.cells):
        notebook.cells.append(nbformat.v4.new_markdown_cell(HEADING))
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    runs, name = told_of(notebook, "runs"), page.removesuffix(".ipynb")
    if several := name != Path(todo["source"]).stem:  # pages of one notebook, each with a heading of its own
        first = next(
            cell for cell in notebook.cells if cell.source.startswith("# ")
        )  # a failed page has a note above it
        title = f": {dataset_title(todo['parameters']['dataset'])}"
        first.source = re.sub("$", title, first.source, count=1, flags=re.MULTILINE)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = linked(cell.source)
        if "injected-parameters" in cell.metadata.get("tags", ()):
            cell.metadata["tags"].append("remove-input")  # the table at the page's end says what was run
        if HEADING in cell.source:
            here, heading, below = cell.source.partition("\n## What this run was")
            cell.source = here.rstrip() + command(todo, seconds, told_of(notebook, "pair").values()) + heading + below
        if figure := cell.metadata.get("mystnb", {}).get("figure"):
            titles = [title for output in cell.outputs for title in output.get("metadata", {}).get("shown", ())]
            own = dict.fromkeys(re.split("[:\n]", title)[0] for title in titles)  # "DATA SET: network, models"
            shown = [runs[name] for name in own if name in runs] or runs.values()
            said, _, more = figure["caption"].partition("{runs}")
            figure["caption"] = f'{said}<span class="samlib-runs">{"; ".join(shown)}{more}</span>' if more else said
            cell.metadata["mystnb"]["image"]["width"] = "100%"  # with any width, Sphinx links a figure to its full size
            if several:
                figure["name"] += f"-{name}"
    if error is None:
        notebook.metadata["samlib"] = {"fingerprint": todo["fingerprint"]}
    path.write_text(nbformat.writes(notebook).replace(f"{ROOT}/", ""))  # no path of this machine
    said = "".join(output.text for output in outputs if output.output_type == "stream" and output.name == "stderr")
    warned = dict.fromkeys(line.partition("Warning: ")[2] for line in said.splitlines() if "Warning: " in line)
    return time.perf_counter() - start, error, list(warned)


def linked(text: str) -> str:
    """Markdown with the book's own boxes and links, so that notebooks read well where only plain Markdown is shown.

    A theorem becomes a numbered box, and a link to it takes the number. A paper's address becomes a citation, and a page of the
    book is one folder up.
    """

    def boxed(match: re.Match) -> str:
        kind = match["kind"].lower() if match["kind"] == "Important" else f"prf:{match['kind'].lower()}"
        label = f":label: {match['label']}\n" if match["label"] else ""
        return f"```{{{kind}}} {match['title'] or ''}\n{label}\n{match['said']}\n```"

    def cited(match: re.Match) -> str:
        if key := cited_by_address().get(match[2]):
            both = f"{{cite:author}}`{key}` ({{cite:year}}`{key}`)"
            return both if "(" in match[1] else f"{{cite:alp}}`{key}`"
        return match[0]

    text = LINK_TO_BOX.sub(r"{prf:ref}`\1`", BOXED.sub(boxed, text))
    return re.sub(r"\[([^]]+)\]\((https://[^)]+)\)", cited, text).replace("](../book/", "](../")


@functools.cache
def cited_by_address() -> dict[str, str]:
    """From the address of a paper to its key in the list of references."""
    entries = pybtex.database.parse_file(BOOK / "references.bib").entries
    kinds = {"eprint": "https://arxiv.org/abs/", "doi": "https://doi.org/", "url": ""}
    return {kinds[k] + each.fields[k]: key for key, each in entries.items() for k in kinds if k in each.fields}


def command(todo: dict, seconds: float, pairs: Iterable[str]) -> str:
    """How to make a page by hand, as Markdown that follows HEADING.

    seconds: what its execution took. pairs: how long two models of its data sets took to train, and on what.
    """
    source = Path(todo["source"]).relative_to(ROOT)
    lines = ",\n".join(f"      {json.dumps(name)}: {json.dumps(value)}" for name, value in todo["parameters"].items())
    given = shlex.quote(f"{{\n{lines}}}").replace(f"{ROOT}/", "")
    cost = f"Training one pair of models took, on one core or one GPU: {'; '.join(pairs)}. " if pairs else ""
    said = {"source": source, "given": given, "seconds": seconds, "cost": cost, "name": source.name, "wheel": WHEEL}
    return CHOSEN["command"].format(**said)


def to_download(folder: Path) -> None:
    """Write the notebooks as they are offered on their pages, each with a cell that installs samlib, and samlib's wheel."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    wheel = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder]
    subprocess.run(wheel, cwd=ROOT, check=True, capture_output=True)
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        notebook = nbformat.read(path, 4)
        notebook.cells.insert(1, nbformat.v4.new_code_cell(CHOSEN["install"].format(wheel=WHEEL), id="install"))
        nbformat.write(notebook, folder / path.name)


def made(pages: Iterable[str]) -> str:
    """What `book/made.md` shows of this build: each page's runs, seconds and date, the versions, and checksums of data."""
    toc = yaml.safe_load((BOOK / "_toc.yml").read_text())
    titles = {each["file"]: each.get("title") for part in toc["parts"] for each in part["chapters"]}
    rows = []
    for page in pages:
        notebook = nbformat.read(EXECUTED / page, 4)
        about, name = notebook.metadata.get("papermill", {}), f"notebooks/{page.removesuffix('.ipynb')}"
        link = f"{titles[name]} </{name}>" if titles.get(name) else f"/{name}"
        seconds, date = about.get("duration") or 0.0, (about.get("end_time") or "")[:10]
        runs, models = told_of(notebook, "runs"), sum(told_of(notebook, "models").values())
        shown = {kind: [title for title, said in runs.items() if f"{kind}: " in said] for kind in ("live", "recorded")}
        said = "; ".join(f"{kind}: {', '.join(titles)}" for kind, titles in shown.items() if titles)
        rows.append(f"| {{doc}}`{link}` | {said} | {f'{models:,}' if models else ''} | {seconds:.0f} | {date} |")
    versions = [f"{name} {importlib.metadata.version(name)}" for name in ("samlib", *PACKAGES, "jupyter-book")]
    digests = [
        (name, key, each[key]) for name, each in PUBLISHED.items() for key in ("sha256", "arrays") if key in each
    ]
    named = {"sha256": "archive", "arrays": "arrays"}
    pinned = [f"| {dataset_title(name)} | {named[key]} | `{digest[:16]}` |" for name, key, digest in digests]
    return "\n".join([
        "| page | made from | models | seconds | on |", "|---|---|---|---|---|", *rows, "",
        f"Python {sys.version.split()[0]}, {', '.join(versions)}; {os.cpu_count()} cores.", "",
        "| data set | pinned | SHA-256, its first 16 digits |", "|---|---|---|", *pinned, "",
    ])  # fmt: skip


def told_of(notebook: nbformat.NotebookNode, what: str) -> dict:
    """From the title of a data set to what `Study.origin` says of the runs behind an executed page."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    said = (output.get("metadata", {}).get("text/markdown", {}).get(what) for output in outputs)
    return next(filter(None, said), {})


def build(strict: bool) -> int:
    """Sphinx, by jupyter-book; quiet unless it fails. If strict, warnings are errors: a page that failed lacks its figures."""
    say("book      building")
    settings = ["--config", ROOT / "_config.yml", "--path-output", BOOK / "build", "-n", "--keep-going"]
    command = [Path(sys.executable).with_name("jupyter-book"), "build", BOOK, *settings]
    command += ["-W"] if strict else []
    quiet = os.environ | {"PYTHONWARNINGS": "ignore"}
    # in ROOT, because _config.yml names the local extension from there
    earlier = (BOOK / "build").exists()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=quiet)
    if done.returncode and earlier:  # perhaps a label has moved to another page, which Sphinx takes for two of them
        shutil.rmtree(BOOK / "build")
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=quiet)
    if done.returncode:
        said = done.stderr.splitlines()
        trouble = [line for line in said if "WARNING" in line or "ERROR" in line or "rror:" in line] or said[-40:]
        sys.stderr.write("\n".join(trouble) + "\n")
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
