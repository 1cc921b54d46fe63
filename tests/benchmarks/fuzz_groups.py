"""Files of groups as they may come back: cut, flipped, with wrong shapes, types, keys, headers. Each is imported or refused.

    python tests/benchmarks/fuzz_groups.py [--inputs 5000]

Refused means one ValueError of one line that names the file, and nothing in the cache; imported, the bytes of the true group.
Prints how many were refused and why, the slowest input in processor time, and the memory at its peak.
"""

import argparse
import io
import json
import re
import resource
import struct
import tempfile
import time
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from samlib import Experiment, load_dataset
from samlib.experiment import pair
from samlib.runs import export_job, import_groups
from samlib.training import __main__ as bare
from samlib.training import train_group

FIELDS = {"hidden": (4,), "epochs": 4, "batch_size": 16, "n_models": 8}
SIZES = [0, 1, 2, 5, 8, 15, 60, 120, 2**31, 2**40, 2**62]
DTYPES = [
    "|b1",
    "|u1",
    "<i8",
    "<f4",
    ">f4",
    "<f8",
    "<f2",
    "<c8",
    "<U3",
    "|S4",
    "|O",
    "<M8[s]",
    "|V7",
    "<f16",
    "nonsense",
]
_place = st.floats(0, 1, exclude_max=True)
_shape = st.lists(st.sampled_from(SIZES), max_size=4)
_header = st.fixed_dictionaries(
    {"descr": st.sampled_from(DTYPES), "fortran_order": st.booleans(), "shape": _shape.map(tuple)}
)
_text = st.one_of(st.text(max_size=30), st.just("[" * 5000), st.just('{"format": 1}'), st.just("0" * 16))
_recipe = st.dictionaries(
    st.sampled_from([*Experiment.model_fields, "more"]),
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.just([]), st.just({})),
    min_size=1,
    max_size=3,
)
# A damage: what is done, where, and with what. `pick` chooses an entry of the zip.
damages = st.one_of(
    st.tuples(st.just("cut"), _place, st.none()),
    st.tuples(st.just("flip"), _place, st.integers(1, 255)),
    st.tuples(st.just("junk"), _place, st.binary(min_size=1, max_size=40)),
    st.tuples(st.just("drop"), _place, st.none()),
    st.tuples(st.just("rename"), _place, st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)),
    st.tuples(st.just("array"), _place, st.tuples(st.sampled_from(DTYPES[:10]), _shape)),
    st.tuples(st.just("nan"), _place, st.sampled_from([np.nan, np.inf, -np.inf, 1e30, 0.0])),
    st.tuples(st.just("shift"), _place, st.integers(-(2**40), 2**40)),
    st.tuples(st.just("header"), _place, _header.map(repr)),
    st.tuples(st.just("header"), _place, st.text(max_size=60)),
    st.tuples(st.just("size"), _place, st.integers(0, 2**32 - 1)),
    st.tuples(st.just("text"), _place, _text),
    st.tuples(st.just("recipe"), _place, _recipe),
    st.tuples(st.just("bomb"), _place, st.integers(1, 2**27)),
    st.tuples(st.just("bytes"), _place, st.binary(max_size=200)),
)


def data_set(path: Path) -> Path:
    rng = np.random.default_rng(5)
    y = rng.integers(0, 3, 75)
    x = (2 * rng.normal(size=(3, 5))[y] + rng.normal(size=(75, 5))).astype(np.float32)
    np.savez(path, x_train=x[:60], y_train=y[:60], x_test=x[60:], y_test=y[60:])
    return path


class Fuzzed:
    """A pack of a pair and a file of one group, and a check of what becomes of them when damaged."""

    def __init__(self, folder: Path):
        self.folder, self.seen, self.slowest = folder, Counter(), (0.0, None)
        data = data_set(folder / "data.npz")
        self.pair = pair(dataset=str(data), **FIELDS)
        job = export_job(self.pair, folder / "job.npz")
        assert bare.main([str(job), "--device", "cpu", "--out", str(folder / "groups")]) == 0
        single, sgd = io.BytesIO(), self.pair["sgd"]
        result = train_group(sgd.model_dump(), load_dataset(data).arrays(), range(8))
        np.savez(single, key=sgd.key, models=range(8), **result)
        self.files = [(folder / "groups" / "groups-1.npz").read_bytes(), single.getvalue()]
        self.whole = [self.contents(raw) for raw in self.files]

    def contents(self, raw: bytes) -> dict[str, bytes]:
        """What the cache holds of an import that succeeds, without its log."""
        with tempfile.TemporaryDirectory(dir=self.folder) as cache:
            (path := Path(cache) / "g.npz").write_bytes(raw)
            import_groups([path], [*self.pair.values()], cache_dir=cache)
            return self.stored(Path(cache))

    def stored(self, cache: Path) -> dict[str, bytes]:
        return {str(p.relative_to(cache)): p.read_bytes() for p in cache.rglob("*.zarr/**/*") if p.is_file()}

    def check(self, damage) -> None:
        """Damage both files; each must be imported, whole, or refused, with the experiments named and without."""
        for raw, whole in zip(self.files, self.whole, strict=True):
            for named in ([*self.pair.values()], []):
                with tempfile.TemporaryDirectory(dir=self.folder) as cache:
                    (path := Path(cache) / "g.npz").write_bytes(damaged(raw, damage))
                    began = time.process_time()
                    try:
                        import_groups([path], named, cache_dir=cache)
                    except ValueError as error:
                        said = str(error)
                        assert "\n" not in said, said
                        assert str(path) in said, said
                        assert not self.stored(Path(cache)), damage
                        self.seen[re.sub(r"[\d.]+|'.*'|\(.*\)", "#", said.split(": ", 1)[-1])[:60]] += 1
                    else:
                        found = self.stored(Path(cache))
                        # signals that were changed on purpose, and contradict nothing, are taken as they are
                        assert damage[0] == "nan" or found == whole, damage
                        self.seen["imported"] += 1
                    self.slowest = max(self.slowest, (time.process_time() - began, str(damage)[:80]))


def damaged(raw: bytes, damage) -> bytes:
    """A file of groups, damaged."""
    kind, place, what = damage
    at = int(place * len(raw))
    if kind == "cut":
        return raw[:at]
    if kind == "flip":
        return raw[:at] + bytes([raw[at] ^ what]) + raw[at + 1 :]
    if kind == "junk":
        return raw[:at] + what + raw[at + len(what) :]
    with zipfile.ZipFile(io.BytesIO(raw)) as file:
        entries = {name: file.read(name) for name in file.namelist()}
    name = sorted(entries)[int(place * len(entries))]
    entries[name] = changed(entries[name], kind, what)
    if kind == "drop":
        del entries[name]
    elif kind == "rename":
        entries[what + name[len(what) :]] = entries.pop(name)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as file:
        for entry, values in entries.items():
            file.writestr(entry, values)
    raw = out.getvalue()
    if kind == "size":  # the size that the directory of the zip gives
        at = raw.index(b"PK\x01\x02")
        raw = raw[: at + 24] + struct.pack("<I", what) + raw[at + 28 :]
    return raw


def changed(entry: bytes, kind: str, what) -> bytes:
    """An array, changed and written as numpy writes it; or with a header that lies."""
    values = np.load(io.BytesIO(entry))
    if kind == "array":
        dtype, shape = what
        values = np.zeros([min(size, 200) for size in shape[:3]], dtype)
    elif kind == "nan" and values.dtype.kind == "f":
        values = values.copy()
        values.flat[: max(1, values.size // 3)] = what
    elif kind == "nan" and values.ndim == 3:  # packed floats
        values = np.full_like(values, 255 if what != 0 else 0)
    elif kind == "shift" and values.dtype.kind == "i":
        values = values + what
    elif kind == "text":
        values = np.array(what) if values.dtype.kind == "U" else np.frombuffer(what.encode("utf8", "replace"), np.uint8)
    elif kind == "recipe" and values.dtype == np.uint8 and values.tobytes()[:1] == b"{":
        about = json.loads(values.tobytes())
        values = np.frombuffer(json.dumps(about | {"recipe": about["recipe"] | what}).encode(), np.uint8)
    elif kind == "bomb":
        values = np.zeros(what, np.uint8)
    elif kind == "bytes":
        return what
    elif kind == "header":
        text = what.encode() + b"\n"
        return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + entry[128:]
    out = io.BytesIO()
    np.lib.format.write_array(out, np.asarray(values), allow_pickle=False)
    return out.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=5000, help="number of damaged files")
    inputs = parser.parse_args().inputs
    with tempfile.TemporaryDirectory() as folder:
        fuzzed = Fuzzed(Path(folder))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

        # each damage makes two files, each imported with and without the experiments named
        @settings(max_examples=-(-inputs // 4), deadline=None, database=None, phases=[Phase.generate],
                  suppress_health_check=[*HealthCheck])  # fmt: skip
        @given(damages)
        def fuzz(damage):
            fuzzed.check(damage)

        fuzz()
    for said, times in fuzzed.seen.most_common():
        print(f"{times:6d}  {said}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"{fuzzed.seen.total()} inputs; the slowest {fuzzed.slowest[0]:.2f} s ({fuzzed.slowest[1]});", end=" ")
    print(f"{(peak - before) / 1024:.0f} MB more memory at the peak")


if __name__ == "__main__":
    main()
