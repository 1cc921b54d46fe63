"""A time box: whole pairs first, nothing begun that would end late, and the bytes of a run without one."""

import json
import os
import re
import shlex
import subprocess
import sys
import time
from itertools import count

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_runs import content

from samlib import Experiment, run, run_pairs
from samlib.experiment import pair
from samlib.paper.study import ablation_pairs
from samlib.runs import NothingWhole, dispatch, open_store
from samlib.training.box import Box, Work

pytestmark = pytest.mark.slow  # many, and `make quick` has others of these rooms

FIELDS = {"hidden": (8,), "epochs": 2, "batch_size": 16}
NOWHERE = "tcp://127.0.0.1:1"  # a scheduler that would fail if it were asked


class Machine:
    """Workers on a clock of their own: each task takes what `seconds(name, n)` says. Keeps who trained what, when."""

    def __init__(self, pairs, works, end, seconds, workers=1):
        self.now, self.seconds, self.done, self.busy, self.workers, self.foreseen = 0.0, seconds, [], [], workers, []
        self.box = Box(pairs, works, end, lambda: self.now)

    def run(self, room=float("inf")):
        while True:
            while len(self.busy) < self.workers and (task := self.box.take(room)):
                name, groups = task
                n = sum(map(len, groups))
                room -= n
                self.busy.append((self.now + self.seconds(name, n), self.now, name, groups))
                if self.box.works[name].seconds:
                    self.foreseen.append(self.busy[-1][0])
            if not self.busy:
                return self
            task = min(self.busy, key=lambda task: task[0])
            self.busy.remove(task)
            self.now, started, name, groups = task
            self.box.finished(name, groups, self.now - started)
            self.done += [(name, k) for group in groups for k in group]

    def models(self, name):
        return [k for n, k in self.done if n == name]


def work(n, size=1, wave=None, passes=1, there=()):
    missing = [range(k, k + size) for k in range(0, n, size) if k not in there]
    return Work(missing, n, size, wave or size, passes)


def two(n=100, **changes):
    return {"sgd": work(n, **changes), "sam": work(n, **{**changes, "passes": 2})}


def sam_twice(name, n):
    return n * (2.0 if name == "sam" else 1.0)


def test_pairs_are_trained_one_after_the_other_and_the_time_is_kept():
    machine = Machine([("sgd", "sam")], two(), 20.0, sam_twice).run()
    assert machine.done[:4] == [("sgd", 0), ("sam", 0), ("sgd", 1), ("sam", 1)]
    # 3 s a pair, 3.3 with the margin: six are done at 18 s, and 2 s are not enough for a seventh
    assert (len(machine.done), machine.now) == (12, 18.0)


def test_a_partner_alone_is_begun_where_a_pair_is_not():
    works = {"sgd": work(100, there=range(100)), "sam": work(100)}
    machine = Machine([("sgd", "sam")], works, 20.0, sam_twice).run()
    assert machine.models("sam") == list(range(9))  # 2 s each, and 2.2 expected
    late = {"sgd": work(100, there=range(40, 48)), "sam": work(100)}
    machine = Machine([("sgd", "sam")], late, 20.0, sam_twice).run()
    assert machine.done[:8] == [("sam", k) for k in range(40, 48)]


def test_the_first_tells_and_a_pair_that_it_says_is_too_long_is_not_begun():
    machine = Machine([("sgd", "sam")], two(), 2.9, sam_twice).run()
    assert machine.done == [("sgd", 0)]  # nobody knew; SAM is expected to take more than twice as long
    assert Machine([("sgd", "sam")], two(), 0.0, sam_twice).run().done == []


def test_a_stack_of_sgd_has_partners_one_by_one():
    works = {"sgd": work(32, size=8), "gsam": work(32, passes=2)}
    machine = Machine([("sgd", "gsam")], works, 12.0, lambda name, n: 1.0 if name == "sgd" else 2.0).run()
    assert machine.models("sgd") == list(range(8))
    assert machine.models("gsam") == [0, 1, 2, 3, 4]
    assert machine.now == 11.0


def test_waves_shrink_where_the_time_is_not_enough_for_whole_ones():
    def streams(name, n):  # four at once take as long as two and a half
        return sam_twice(name, 1 + 0.5 * (n - 1))

    machine = Machine([("sgd", "sam")], two(wave=4), 40.0, streams).run()
    assert machine.done[:8] == [("sgd", k) for k in range(4)] + [("sam", k) for k in range(4)]
    # five waves of pairs at 7.5 s would end at 37.5, but after four, 10 s are left, and 8.25 expected
    assert machine.models("sgd") == machine.models("sam") == list(range(20))
    machine = Machine([("sgd", "sam")], two(wave=4), 20.0, streams).run()
    assert machine.models("sgd") == machine.models("sam") == list(range(9))
    assert machine.now <= 20.0


def test_room_is_kept_too():
    machine = Machine([("sgd", "sam")], two(), float("inf"), sam_twice).run(room=7)
    assert machine.done == [("sgd", 0), ("sam", 0), ("sgd", 1), ("sam", 1), ("sgd", 2), ("sam", 2)]


def test_pairs_that_share_sgd_go_forward_together():
    works = {"sgd": work(9), "a": work(9, passes=2), "b": work(9, passes=2)}
    done = Machine([("sgd", "a"), ("sgd", "b")], works, 21.0, lambda name, n: 1.0).run().done
    assert done[:6] == [("sgd", 0), ("a", 0), ("b", 0), ("sgd", 1), ("a", 1), ("b", 1)]


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_whatever_the_times_no_foreseen_task_ends_late_and_no_partner_waits_that_fits(data):
    """Seconds that never grow: so the slowest so far is no less than the next."""
    sizes = data.draw(st.sampled_from([(1, 1), (8, 8), (8, 1), (4, 4)]))
    n, workers, wave = data.draw(st.integers(1, 30)), data.draw(st.integers(1, 4)), data.draw(st.integers(1, 3))
    works = {name: work(n, size=s, wave=s * wave, passes=p) for name, s, p in zip("ab", sizes, (1, 2), strict=True)}
    cost = dict(zip("ab", data.draw(st.tuples(*[st.floats(0.1, 9)] * 2)), strict=True))
    end = data.draw(st.floats(0, 60))
    machine = Machine([("a", "b")], works, end, lambda name, n: cost[name] * (n / sizes[name == "b"]) ** 0.5, workers)
    machine.run()
    assert len(machine.done) == len(set(machine.done))  # nothing twice
    assert all(finish <= end for finish in machine.foreseen)
    a, b = (set(machine.models(name)) for name in "ab")
    alone, left = {"b": a - b, "a": b - a}, end - machine.now
    for name, models in alone.items():
        if any(k < n for k in models) and works[name].seconds:
            assert left <= works[name].expected(works[name].size)
    if left > 0 and all(works[name].seconds for name in "ab"):
        shortest = sum(works[name].expected(works[name].size) for name in "ab")
        assert not works["a"].missing or left < shortest or works["a"].missing[0].start in b


def test_bad_minutes_are_one_sentence(small_npz, tmp_path):
    for wrong in (0, -1, float("nan"), float("inf"), "12", True):
        with pytest.raises(
            ValueError, match=r"^minutes must be a (finite number above 0, but it is|number, not) .*\.$"
        ):
            run_pairs({0: pair(dataset=str(small_npz), **FIELDS)}, minutes=wrong, cache_dir=tmp_path)


def test_a_box_too_short_for_anything_is_one_sentence(small_npz, client, tmp_path):
    pairs = {0: pair(dataset=str(small_npz), **FIELDS)}
    with pytest.raises(
        NothingWhole, match=r"^No pair of models was finished in 1e-06 minutes; call again to resume\.$"
    ):
        run_pairs(pairs, minutes=1e-6, cluster=client, cache_dir=tmp_path, progress=False)
    assert not list(tmp_path.rglob("*.jsonl"))


def there(experiment, cache) -> int:
    return experiment.n_models - sum(map(len, open_store(experiment, cache).missing()))


@pytest.mark.slow
def test_boxes_in_a_row_end_in_the_bytes_of_one_run_without(small_npz, client, tmp_path):
    """Two workers; each box twice as long as the last. At every stop only groups in training had no partner."""
    experiments = pair(dataset=str(small_npz), n_models=96, **FIELDS | {"epochs": 60})
    options = {"cluster": client, "progress": False}
    calm = run_pairs({"a": experiments}, **options, cache_dir=tmp_path / "calm")["a"]
    stops = []
    for n in count():
        try:
            found = run_pairs({"a": experiments}, minutes=0.02 * 2**n, **options, cache_dir=tmp_path / "boxed")["a"]
        except NothingWhole:
            found = None
        stops.append([there(e, tmp_path / "boxed") for e in experiments.values()])
        assert abs(stops[-1][0] - stops[-1][1]) <= 16
        if found:
            whole = min(stops[-1])
            for name, boxed in found.items():
                assert boxed.sizes["model"] == boxed.attrs["whole"] == whole
                assert boxed.attrs["asked"] == 96
                assert json.loads(boxed.attrs["experiment"])["n_models"] == whole
                np.testing.assert_array_equal(boxed.logit, calm[name].logit[:whole])
        if stops[-1] == [96, 96]:
            break
    assert len(stops) > 1
    assert content(tmp_path / "boxed") == content(tmp_path / "calm")
    assert (
        run_pairs({"a": experiments}, minutes=1, cluster=NOWHERE, cache_dir=tmp_path / "boxed")["a"].keys()
        == calm.keys()
    )


@pytest.mark.slow
def test_ablations_in_a_box_are_those_without(small_npz, client, tmp_path):
    pairs = ablation_pairs(["rho", "n_models"], dataset=str(small_npz), n_models=12, **FIELDS | {"epochs": 8})
    boxed = run_pairs(pairs, minutes=10, cluster=client, cache_dir=tmp_path / "a", progress=False)
    free = run_pairs(pairs, cluster=client, cache_dir=tmp_path / "b", progress=False)
    assert boxed.keys() == free.keys()
    for key, found in boxed.items():
        for name, boxed_runs in found.items():
            np.testing.assert_array_equal(boxed_runs.logit, free[key][name].logit)
    assert content(tmp_path / "a") == content(tmp_path / "b")


def test_pairs_without_a_whole_model_are_left_out(small_npz, client, tmp_path):
    fields = {"dataset": str(small_npz), "n_models": 8, **FIELDS}
    run_pairs({0: pair(**fields)}, cluster=client, cache_dir=tmp_path, progress=False)
    pairs = {"old": pair(**fields | {"n_models": 16}), "new": pair(**fields, lr=0.2)}
    found = run_pairs(pairs, minutes=1e-6, cluster=client, cache_dir=tmp_path, progress=False)
    assert list(found) == ["old"]
    assert [old.model.values.tolist() for old in found["old"].values()] == [list(range(8))] * 2


def test_one_experiment_in_a_box(small_npz, client, tmp_path):
    one = Experiment(dataset=str(small_npz), n_models=16, **FIELDS)
    found = run(one, minutes=5, cluster=client, cache_dir=tmp_path, progress=False)
    assert (found.sizes["model"], found.attrs["asked"]) == (16, 16)
    more = run(one.but(n_models=64), minutes=1e-6, cluster=NOWHERE, cache_dir=tmp_path, progress=False)
    assert (more.sizes["model"], more.attrs["asked"]) == (16, 64)
    np.testing.assert_array_equal(more.logit, found.logit)


def test_a_pair_of_other_data_is_aligned_by_its_models(small_npz, client, tmp_path):
    fields = {"dataset": str(small_npz), "n_models": 8, **FIELDS}
    both = {"sgd": Experiment(pool=60, **fields), "sam": Experiment(optimizer="sam", pool=80, **fields)}
    found = run_pairs({0: both}, minutes=5, cluster=client, cache_dir=tmp_path, progress=False)[0]
    assert {name: dict(runs.sizes)["example"] for name, runs in found.items()} == {"sgd": 60, "sam": 80}


def test_a_round_after_lost_workers_knows_how_long_tasks_took(small_npz, client, tmp_path, monkeypatch):
    store, known = open_store(Experiment(dataset=str(small_npz), n_models=8, **FIELDS), tmp_path), []

    def lost(client, box, given, write):
        known.append(dict(box.works["it"].seconds))
        box.finished("it", [range(8)], 7.0)
        return True

    monkeypatch.setattr(dispatch, "_round", lost)
    with store.locked(False):
        store.prepare()
        with pytest.raises(RuntimeError, match="Workers were lost 3 times at models 0 to 7"):
            dispatch.train_missing({"it": store}, [("it",)], client, False, time.monotonic() + 600)
    assert known == [{}, {8: 7.0}, {8: 7.0}]


class _Wave:
    """A device that takes so many models at once."""

    def __init__(self, n):
        self.n = n

    def __call__(self, recipe, data, wanted):
        return self.n


@pytest.mark.parametrize("minutes", [None, 10])
def test_a_wave_of_groups_is_written_group_by_group(small_npz, client, tmp_path, monkeypatch, minutes):
    monkeypatch.setattr(dispatch, "_at_once", _Wave(16))
    one = Experiment(dataset=str(small_npz), n_models=40, **FIELDS)
    found = run(one, minutes=minutes, cluster=client, cache_dir=tmp_path / "waves", progress=False)
    (log,) = (tmp_path / "waves").rglob("*.jsonl")
    entries = sorted((json.loads(line) for line in log.read_text().splitlines()), key=lambda entry: entry["models"])
    assert [entry["models"] for entry in entries] == [[k, k + 8] for k in range(0, 40, 8)]
    assert entries[0]["seconds"] == entries[1]["seconds"]
    monkeypatch.undo()
    calm = run(one, cluster=client, cache_dir=tmp_path / "groups", progress=False)
    np.testing.assert_array_equal(found.member, calm.member)
    np.testing.assert_allclose(found.logit, calm.logit, rtol=1e-3, atol=1e-3)


def test_a_box_waits_for_another_process_no_longer_than_it_lasts(small_npz, client, tmp_path):
    experiments = pair(dataset=str(small_npz), **FIELDS)
    with open_store(experiments["sam"], tmp_path).locked(False), pytest.raises(NothingWhole):
        run_pairs({0: experiments}, minutes=0.005, cluster=NOWHERE, cache_dir=tmp_path, progress=False)


def test_a_box_that_starting_workers_used_up_says_so(small_npz, client, tmp_path, capsys):
    store = open_store(Experiment(dataset=str(small_npz), n_models=8, **FIELDS), tmp_path)
    with store.locked(progress=False):
        store.prepare()
        dispatch.train_missing({"": store}, [("",)], client, True, time.monotonic())
    assert "samlib: the time was up before training began; give more minutes." in capsys.readouterr().err
    assert store.missing()


def test_a_late_end_is_said(small_npz, client, tmp_path, capsys):
    """The first group alone cannot be foreseen; a box that ends while it is trained says so."""
    long = Experiment(dataset=str(small_npz), n_models=8, **FIELDS | {"epochs": 4000})  # longer than starting takes
    for n in count():
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("SAMLIB_CACHE", str(tmp_path / str(n)))
            try:
                run(long, minutes=0.005 * 1.5**n, cluster=client)
                break
            except NothingWhole:
                continue
    assert re.search(r"samlib: models of .* ended after the time was up\.", capsys.readouterr().err)


def command(*arguments, cache):
    return subprocess.run(
        [sys.executable, "-m", "samlib", *arguments],
        capture_output=True,
        text=True,
        env=os.environ | {"SAMLIB_CACHE": str(cache)},
    )


@pytest.mark.slow
def test_the_command_stops_says_what_there_is_and_its_line_goes_on(small_npz, tmp_path):
    options = ["--dataset", str(small_npz), "--hidden", "8", "--epochs", "8", "--batch-size", "16", "--n-models", "16"]
    short = command("train", *options, "--minutes", "0.00001", cache=tmp_path)
    assert short.returncode == 0, short.stderr
    first, line = short.stdout.splitlines()
    assert first == "0 of 16 pairs are there."
    assert line.startswith("To go on: samlib train ")
    again = shlex.split(line.removeprefix("To go on: samlib "))
    again[again.index("--minutes") + 1] = "10"
    done = command(*again, cache=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("16 of 16 pairs are there.\nsgd: 16 models")
    assert "To go on" not in done.stdout
    wrong = command("train", *options, "--minutes", "0", cache=tmp_path)
    assert (wrong.returncode, wrong.stderr) == (1, "samlib: minutes must be a finite number above 0, but it is 0.0.\n")
