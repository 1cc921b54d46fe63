"""Influence written to a file, whole or not at all, and exact for any number of models."""

import subprocess
import sys

import numpy as np
import pytest
import zarr

import samlib
from samlib.estimators import influence_blocks

WRITER = """
import sys, numpy as np, samlib
from samlib import estimators

estimators.BLOCK_BYTES = 4 * 300 * 64  # a chunk of test points at a time
correct, member = np.load(sys.argv[1]), np.load(sys.argv[2])
step = estimators.influence_blocks
def slow(*args, **options):
    for i, found in enumerate(step(*args, **options)):
        if i == 2:
            print("two written", flush=True)
            sys.stdin.readline()
        yield found
estimators.influence_blocks = slow
samlib.influence(correct, member, out=sys.argv[3])
"""


def matrices(tmp_path):
    rng = np.random.default_rng(0)
    correct, member = rng.random((16, 256)) < 0.5, rng.random((16, 300)) < 0.5
    member[:2] = [[True], [False]]
    np.save(tmp_path / "correct.npy", correct)
    np.save(tmp_path / "member.npy", member)
    return correct, member


@pytest.mark.slow
def test_a_writer_that_is_killed_leaves_nothing_that_reads_as_numbers(tmp_path):
    """After two of four chunks; the same call then writes all."""
    correct, member = matrices(tmp_path)
    out = tmp_path / "x.zarr"
    command = [
        sys.executable,
        "-c",
        WRITER,
        *(str(tmp_path / name) for name in ("correct.npy", "member.npy")),
        str(out),
    ]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "two written\n"
        process.kill()
    assert not out.exists()
    partial = zarr.open_array(tmp_path / "x.zarr.partial", mode="r")[:]
    assert np.isfinite(partial[:128]).all()
    assert np.isnan(partial[128:]).all()
    found = samlib.influence(correct, member, out=out)
    expected = np.concatenate([block for _, block in influence_blocks(correct, member)])
    assert np.array_equal(found[:], expected)
    assert np.array_equal(zarr.open_array(out, mode="r")[:], expected)
    assert not (tmp_path / "x.zarr.partial").exists()
    with pytest.raises(ValueError, match=r"^out .*x\.zarr is there already; delete it or give another path\.$"):
        samlib.influence(correct, member, out=out)


def test_a_full_disk_is_one_sentence_and_leaves_nothing(tmp_path):
    """A limit on the size of files stands for the full disk."""
    import resource

    correct, member = matrices(tmp_path)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2500, before[1]))
    try:
        with pytest.raises(OSError, match=r"^out .*x\.zarr could not be written \(.*\)\.$"):
            samlib.influence(correct, member, out=tmp_path / "x.zarr")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.glob("x.zarr*/*"))


def test_a_path_of_home_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    samlib.influence(*matrices(tmp_path), out="~/x.zarr")
    assert (tmp_path / "home" / "x.zarr" / "zarr.json").exists()


@pytest.mark.filterwarnings("ignore:.*no estimate")
@pytest.mark.parametrize("n_models", [4096, 4097, 5793])
def test_an_influence_of_zero_is_zero_at_any_number_of_models(n_models):
    """As many right in as out, in proportion: beyond 4,096 models the products of the counts are odd above 2^24."""
    rng = np.random.default_rng(n_models)
    member = np.ones((n_models, 40), bool)
    correct = rng.random((n_models, 30)) < 0.5
    for i in range(40):
        member[: 1 + 50 * i, i] = False
    exact = correct.T.astype(object) @ member.astype(object)
    n_in, right = member.sum(0).astype(object), correct.sum(0).astype(object)
    numerator = exact * n_models - right[:, None] * n_in
    value = np.concatenate([block for _, block in influence_blocks(correct, member)])
    assert np.array_equal(value == 0, numerator == 0)
    expected = numerator / (n_in * (n_models - n_in)).astype(float)
    np.testing.assert_allclose(value, expected.astype(float), rtol=3e-7)
    correct[:, 0] = True  # right everywhere: no influence
    assert (next(influence_blocks(correct, member))[1][0] == 0).all()


def test_more_models_than_counts_are_exact_for_are_refused():
    many = np.zeros((2**24 + 1, 1), bool)
    with pytest.raises(ValueError, match=r"^member must hold at most 16,777,216 models"):
        samlib.influence(many, many, empty="zero")
