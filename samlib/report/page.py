"""The page of an audit: a notebook that papermill executes, as one HTML file that needs no network."""

from __future__ import annotations

import base64
import html
import io
import math
import re
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from IPython.display import HTML, Markdown

from samlib.checks import as_path

HERE = Path(__file__).parent
BALANCED = "Balanced accuracy is that of the best threshold, which chance lifts above one half."


def named(path) -> Path:
    """The path of a page, which ends in .html. Raises ValueError if it ends like a file of another kind."""
    path = as_path("path", path)
    if re.fullmatch(r"\.(?!html$)[a-z]+", path.suffix):
        raise ValueError(f"path {path.name!r} must end in .html, since a page is written; a browser prints it as PDF.")
    return path if path.suffix == ".html" else path.with_name(f"{path.name}.html")


def write(kept: str, path) -> Path:
    """Write `path` (.html), and beside it the executed notebook (.ipynb) and what it reads (.json)."""
    import papermill
    from nbconvert import HTMLExporter

    page = named(path)
    notebook, tables = (page.with_suffix(suffix) for suffix in (".ipynb", ".json"))
    page.parent.mkdir(parents=True, exist_ok=True)
    tables.write_text(kept, encoding="utf-8")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Jupyter's packages warn about each other
        how = {"kernel_name": "python3", "progress_bar": False, "extra_arguments": ["--log-level=40"]}
        papermill.execute_notebook(HERE / "report.ipynb", notebook, {"path": str(tables)}, **how)
        body, _ = HTMLExporter(template_name="basic", exclude_input=True).from_filename(str(notebook))
    body = re.sub(r"(\d|\)) %", "\\1\u00a0%", body)  # a line must not break there
    page.write_text((HERE / "page.html").read_text(encoding="utf-8").replace("<!-- body -->", body), encoding="utf-8")
    return page


def shown(frame: pd.DataFrame) -> HTML:
    """A table of texts and numbers, which the keyboard can scroll. Names in it come from the file, so they are escaped."""
    table = frame.to_html(index=False, border=0, escape=True)
    hint = '<p class="hint">The table scrolls sideways.</p>' * (len(frame.columns) > 4)
    return HTML(f'{hint}<div class="wide" role="group" aria-label="Table" tabindex="0">{table}</div>')


def picture(said: str) -> HTML:
    """The figure that was drawn last, as an image, and words for those who cannot see it."""
    with io.BytesIO() as file:
        plt.savefig(file, format="svg", bbox_inches="tight", metadata={"Date": None})
        plt.close()
        image = base64.b64encode(file.getvalue()).decode()
    return HTML(f'<img alt="{html.escape(said)}" src="data:image/svg+xml;base64,{image}">')


def sentences(*said: str) -> Markdown:
    """Sentences as a list."""
    return Markdown("\n".join(f"- {html.escape(each)}" for each in said))


def ranges(frame: pd.DataFrame, value: str = "value", digits: int = 3) -> list[str]:
    """A number with the ends of its interval, a text for each row."""
    ends = frame[[value, "low", "high"]].to_numpy(float)
    return ["–" if math.isnan(v) else f"{v:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]" for v, low, high in ends]


def risk(frame: pd.DataFrame, guessed: bool = False) -> pd.DataFrame:
    """The table of risk as people read it: a row for each attack. guessed: what `Report.guessed` says."""
    cells = pd.Series(ranges(frame), frame.index)
    cells = cells.where(frame["measure"] != "epsilon", frame["value"].map("at least {:.2f}".format))
    cells = cells.where(frame["note"] == "", frame["note"])
    wide = frame.assign(cell=cells).set_index(["attack", "measure"])["cell"].unstack(sort=False)
    names = {"auc": "AUC", "balanced_accuracy": "balanced accuracy"}
    titles = {name: f"TPR at {100 * float(name[4:]):g} % FPR" for name in wide if name.startswith("tpr@")}
    rows = {"correctness": "correctness (guessed from p > 1/2)"} if guessed else {}
    return wide.rename(index=rows, columns=names | titles).rename_axis(columns=None).reset_index()


def counts(frame: pd.DataFrame, found: str, accused: str) -> dict[str, list[str]]:
    """Columns of a table of single examples: how many hits of how many models, and the exact interval of the share."""
    columns = {}
    for side, title in (("found", found), ("accused", accused)):
        hits, models, low, high = (frame[f"{side}_{part}"] for part in ("hits", "models", "low", "high"))
        columns[title] = [f"{h} of {n} [{a:.2f}, {b:.2f}]" for h, n, a, b in zip(hits, models, low, high, strict=True)]
    return columns
