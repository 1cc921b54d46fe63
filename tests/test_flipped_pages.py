"""Whole pages on data that flip: each is executed on a record or on draws, and on the same with the optimizers exchanged."""

import json
import re
import sys
import tomllib
import warnings
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import stores
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from simulated import swapped

from samlib.audit import Pair
from samlib.experiment import pair as experiments
from samlib.inference import CONTRADICTED, NO_DIFFERENCE, SUPPORTED
from samlib.paper import claims, distances, findings, mixture, notebook, panels, records
from samlib.paper.mixture import measures

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
TOLD = tomllib.loads(Path(panels.__file__).with_name("told.toml").read_text())
PAGES = {
    "membership_risk": "membership",
    "memorization": "memorization",
    "influence": "influence",
    "influence_entropy": "entropy",
}
MIXTURE = {"synthetic_mixture": {"n_draws": 60, "map_draws": 8}}  # a page that draws its own data
MODELS, N = 48, 240
WORDS = {1: "higher", -1: "lower", 0: "open"}
ALL = (*WORDS.values(), "small")
OPPOSITE = {SUPPORTED: CONTRADICTED, CONTRADICTED: SUPPORTED}
EITHER = (
    ("supported", "contradicted"),
    ("As the paper says", "Against the paper"),
    ("as the paper says", "against it"),
    ("SAM better", "SGD better"),
    ("better", "worse"),
    ("easier", "harder"),
    ("more", "less", "fewer"),
    ("higher", "lower"),
    ("+", "-"),
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Records of a pair whose SAM generalizes, leaks and memorizes more, and of the same pair exchanged."""
    found, points = {}, stores.points(np.random.default_rng(7), N, N)
    sam = {"leak": 1.8, "skill": 0.25, "scale": 0.9}
    pair = stores.pair(np.random.default_rng(0), MODELS, N, N, carries=4.0, sam=sam)
    two = experiments(dataset="digits", n_models=MODELS)
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "(?s).*(are left out|no estimate)")
        for room in (distances, *(import_module(f"samlib.paper.{section}") for section in claims.SECTIONS)):
            if hasattr(room, "dataset_of"):
                patch.setattr(room, "dataset_of", lambda runs: points)
        for name, each in (("as it is", pair), ("exchanged", swapped(pair))):
            runs = {k: part.assign_attrs(experiment=two[k].model_dump_json(), key=two[k].key)
                    for k, part in zip(two, each, strict=False)}  # fmt: skip
            found[name] = tmp_path_factory.mktemp("records")
            notebook.record(Pair(**runs, name=pair.name), found[name])
    return found


@pytest.fixture
def drawing(monkeypatch):
    """Make draws of the mixture come "as it is" or "exchanged". Each is drawn once."""
    kept, drawn = {}, measures.paired_draws

    def make(which: str):
        def paired_draws(n_draws, **options):
            key = repr((n_draws, sorted(options.items())))
            found = kept[key] = kept.get(key) or drawn(n_draws, **options)
            return found if which == "as it is" else measures.PairedDraws(found.sam, found.sgd)

        for room in (measures, mixture):
            monkeypatch.setattr(room, "paired_draws", paired_draws)

    return make


@pytest.fixture(scope="module")
def executed(folders):
    """What a page says on a record: the texts of its outputs, without pictures and scripts. Each page runs once for each."""
    done: dict[tuple[str, str], str] = {}

    def said(page: str, which: str) -> str:
        if (page, which) not in done:
            recorded = {"datasets": ["digits"], "results": str(folders[which]), "n_models": MODELS}
            shell, given = InteractiveShell.instance(), MIXTURE.get(page, recorded)
            shell.reset(new_session=False)
            parts = []
            for cell in json.loads((NOTEBOOKS / f"{page}.ipynb").read_text())["cells"]:
                if cell["cell_type"] == "code":
                    with capture_output() as shown:
                        result = shell.run_cell("".join(cell["source"]))
                    result.raise_error()
                    outputs = [output.data for output in shown.outputs]
                    if result.result is not None:
                        outputs += [shell.display_formatter.format(result.result)[0]]
                    parts += [data["text/markdown"] for data in outputs if "text/markdown" in data]
                    if "parameters" in cell["metadata"].get("tags", ()):
                        shell.push(given)
            done[page, which] = "\n".join(parts)
        return done[page, which]

    main = sys.modules["__main__"]
    yield said
    InteractiveShell.clear_instance()
    sys.modules["__main__"] = main  # the shell put its own there, which a process cannot be spawned from


def verdicts_on(text: str, where: str = "Digits") -> dict[str, str]:
    """The claims of a page's cards, and what each says of the one data set."""
    return dict(re.findall(rf"\*\*(C[^*]+)\.\*\* [^\n]*\n\n- On {where}: \*\*([^*]+)\*\*", text))


def recorded(folder, section) -> dict:
    (path,) = records.records(folder)
    return records.load(path, section)


def neutral(text: str) -> str:
    """A page's sentences without numbers and tables, and one word for either side of what may flip."""
    text = re.sub(r"(?s)<(style|table).*?</\1>", "", text)
    for reasons in TOLD.values():
        for why in reasons["because"].values():
            text = text.replace(why, "")
    for words in EITHER:
        text = re.sub("|".join(map(re.escape, words)), words[0], text)
    return re.sub(r"\s+", " ", re.sub(r"[\d.,]+", "#", text))


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.slow
def test_cards_of_a_page_say_what_the_record_holds_and_flip_with_it(page, executed, folders):
    kinds = {claim.id: claim.kind for claim in claims.EVERY}
    found = {}
    for which, folder in folders.items():
        found[which] = verdicts_on(executed(page, which))
        about = {
            "digits": claims.cost(
                {"models": [MODELS] * 2, "seconds": 1.0, "machine": [], "live": False, "experiments": []}
            )
        }
        ledger = claims.ledger_of({"digits": recorded(folder, PAGES[page])["effects"]}, about, claims.EVERY)["verdict"]
        assert found[which]
        assert found[which] == {claim: ledger[claim, "digits"] for claim in found[which]}
    first, other = found.values()
    for claim, verdict in first.items():
        assert other[claim] == (OPPOSITE.get(verdict, verdict) if kinds[claim] == "contrast" else verdict), claim


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.slow
def test_sentences_of_a_page_follow_the_signs_of_the_record(page, executed, folders):
    source = (NOTEBOOKS / f"{page}.ipynb").read_text()
    asked = re.findall(r'panels\.told\(found, \\"(\w+)\\"\)', source)
    assert asked
    for which, folder in folders.items():
        text, frames = executed(page, which), recorded(folder, PAGES[page])
        verdicts, told = verdicts_on(text), "\n".join(re.findall(r"(?m)^On .*", text))
        directions = {claim.id: claim.direction for claim in claims.EVERY}
        for each in (row for what in asked for row in TOLD[what]["rows"]):
            if each["frame"] == "effects":
                sign = {SUPPORTED: 1, CONTRADICTED: -1}.get(verdicts[each["row"]], 0) * directions[each["row"]]
                words = dict(WORDS) | ({0: "small"} if verdicts[each["row"]] == NO_DIFFERENCE else {})
            else:
                key = tuple(each["row"]) if isinstance(each["row"], list) else each["row"]
                row = frames[each["frame"]].loc[key]
                sign, words = int(row["low"] > 0) - int(row["high"] < 0), WORDS
            assert [word for word in each if word in ALL and each[word] in told] == [words[int(sign)]], (which, each)


@pytest.mark.parametrize("page", [*PAGES, "attackers", "introduction"])
@pytest.mark.slow
def test_nothing_else_of_a_page_changes(page, executed):
    first, other = (neutral(executed(page, which)) for which in ("as it is", "exchanged"))
    if page == "introduction":
        first, other = (re.sub(r"\*SAM tests better [^*]*\*", "", text) for text in (first, other))
    assert first == other


@pytest.mark.slow
def test_the_first_page_flips(executed):
    up, down = (executed("introduction", which) for which in ("as it is", "exchanged"))
    for what in ("Accuracy", "Leakage", "Memorization"):
        assert re.search(rf"\*\*{what}\.\*\* (\d+ comparisons on 1 data set: [^.]*\. )?As the paper says, SAM ", up)
        assert re.search(rf"\*\*{what}\.\*\* (\d+ comparisons on 1 data set: [^.]*\. )?Against the paper, SAM ", down)
    assert "by enough to count, on Digits (" in up
    assert "by enough to count, on none of 1 data sets" in down
    for claim in (findings.ACCURACY, *findings.ATTACKS):
        assert re.search(rf"\*\*{claim}\.\*\* .* \| supported \|", up)
        assert re.search(rf"\*\*{claim}\.\*\* .* \| contradicted \|", down)


@pytest.mark.slow
def test_sentences_name_the_side_that_the_data_take(executed):
    """In words of its own, since the others of these tests read theirs from where the pages do."""
    up, down = (executed("membership_risk", which) for which in ("as it is", "exchanged"))
    assert "On Digits SAM tests better and leaks more to online LiRA." in up
    assert "On Digits SAM tests worse and leaks less to online LiRA." in down
    assert "On Digits SAM is easier to attack by confidence, LiRA online and RMIA offline." in up
    assert "On Digits SAM is harder to attack by confidence, LiRA online and RMIA offline." in down
    up, down = (executed("memorization", which) for which in ("as it is", "exchanged"))
    assert "On Digits SAM memorizes more in the mean and has no verdict on how many" in up
    assert "On Digits SAM memorizes less in the mean and has no verdict on how many" in down


@pytest.mark.slow
def test_the_mixtures_page_follows_its_draws(executed, drawing):
    text = {}
    for which in ("as it is", "exchanged"):
        drawing(which)
        text[which] = executed("synthetic_mixture", which)
    up, down = text.values()
    first, other = (verdicts_on(each, "the mixture") for each in (up, down))
    assert (first["C11 few"], other["C11 few"]) == (SUPPORTED, CONTRADICTED)
    assert first["C11 many"] == other["C11 many"]  # it treats both alike
    counted = r"better on the atypical cluster in (\d+), worse in (\d+)"
    (wins, losses), flipped = (re.search(counted, each).groups() for each in (up, down))
    assert flipped == (losses, wins)
    assert wins != losses
    lost = [re.search(r"Worse: (.*)\.\n", each)[1].split("; ") for each in (up, down)]
    assert [str(len(each)) for each in lost] == [losses, wins]
    assert not set(lost[0]) & set(lost[1])
    sides, gains = {}, r"\*([^*]+)\*, (\S+) \((\S+) to (\S+)\), (SAM better|SGD better|not settled)"
    for which, each in text.items():
        sides[which] = {}
        for name, gain, low, high, said in re.findall(gains, each):
            clear = float(low) * float(high) > 0
            assert said == (f"{'SAM' if float(gain) > 0 else 'SGD'} better" if clear else "not settled"), name
            assert (name in lost[which == "exchanged"]) == (said == "SGD better"), name
            sides[which][name] = said
    swap = {"SAM better": "SGD better", "SGD better": "SAM better", "not settled": "not settled"}
    assert sides["exchanged"] == {name: swap[said] for name, said in sides["as it is"].items()}
    assert {"SGD better", "not settled"} <= set(sides["as it is"].values())
    first, other = (neutral(re.sub("Worse: .*", "", each)) for each in (up, down))
    assert first == other
