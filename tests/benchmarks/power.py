"""How wide the ledger's intervals would be with more pairs of models, from the frames of a pilot: a table in Markdown.

    python tests/benchmarks/power.py FOLDER PAIRS [FOLDER PAIRS ...]

FOLDER is a record, or a data set's folder of measured frames in the cache; PAIRS is the number of pairs that is planned.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from samlib.paper.claims import CLAIMS, SECTIONS
from samlib.paper.frames import EACH


def expected(folder: Path, pairs: int) -> pd.Series:
    """For each claim "estimate ± half width (reliability)", as they would be if the estimates stayed where they are."""
    pilot = json.loads((folder / "about.json").read_text())["models"][0]
    effects = pd.concat([pd.read_parquet(folder / f"{section}.effects.parquet") for section in SECTIONS])
    said = {}
    for claim in CLAIMS:
        found = effects.reindex([claim.id]).iloc[0]
        if found.isna().any():
            continue
        by_examples = max(found["stderr"] ** 2 - found["by_models"], 0)
        half = stats.t.ppf(1 - EACH / 2, found["df"]) * np.sqrt(found["by_models"] * pilot / pairs + by_examples)
        said[claim.id] = f"{found['estimate']:+.4f} ± {half:.4f}"
        if found["reliability"] < 1:
            more, old = pairs / pilot, found["reliability"]
            said[claim.id] += f" ({more * old / (1 + (more - 1) * old):.2f})"
    return pd.Series(said, name=f"{folder.name.split('-sam-')[0]}, {pairs:,}")


if __name__ == "__main__":
    columns = [expected(Path(folder), int(pairs)) for folder, pairs in zip(sys.argv[1::2], sys.argv[2::2], strict=True)]
    smallest = pd.Series({claim.id: f"{claim.smallest:g}" for claim in CLAIMS}, name="counts from")
    table = pd.concat([smallest, *columns], axis=1).dropna(thresh=2).fillna("none in the pilot")
    print(table.rename_axis("claim").to_markdown())
