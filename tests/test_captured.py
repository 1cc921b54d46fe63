"""How a GPU's engine chooses the number of models at once; the GPU itself is in test_gpu."""

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from samlib.training import captured

SPEEDS = {1: 100.0, 4: 300.0, 8: 500.0, 16: 600.0, 32: 610.0}  # steps a second, of all models


@pytest.fixture
def choose(monkeypatch):
    """A function: what `fit` chooses on a GPU of these speeds, if one capture takes so many seconds; and what it tried."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (1, 1))

    def choose(wanted, steps, capture, speeds=SPEEDS, model="cnn"):
        clock, tried = [0.0], []
        monkeypatch.setattr(captured, "time", SimpleNamespace(perf_counter=lambda: clock[0]))

        class Engine(captured.Engine):
            def __init__(self):
                self.recipe, self.trainings, self.loose = {"model": model, "optimizer": "sgd", "augment": False}, [], ""

            def resize(self, k):
                count = 1 if model == "mlp" else k
                clock[0] += capture * (1 if model == "mlp" else max(0, k - len(self.trainings)))
                self.trainings = [SimpleNamespace(steps=steps, k=k)] * count
                tried.append(k)

            def speed(self):
                return speeds[self.trainings[0].k]

        best, speed = Engine().fit(wanted)
        assert tried.pop() == best
        assert speed == speeds[best]
        return best, tried

    return choose


def test_where_captures_cost_nothing_the_fastest_number_is_taken(choose):
    assert choose(wanted=100, steps=1000, capture=0.0) == (16, [1, 4, 8, 16, 32])
    assert choose(wanted=8, steps=1000, capture=0.0) == (8, [1, 4, 8])
    assert choose(wanted=3, steps=1000, capture=0.0, speeds={1: 1.0, 3: 2.0}) == (3, [1, 3])


def test_no_more_is_captured_than_the_training_that_is_left_repays(choose):
    # with 8, 32 models of 100 steps take 6.4 s; the last gain, 5/3, would save 2.6 s of them, and 8 captures take 8 s
    assert choose(wanted=32, steps=100, capture=1.0) == (8, [1, 4, 8])
    assert choose(wanted=32, steps=100, capture=0.3)[1] == [1, 4, 8, 16]
    assert choose(wanted=32, steps=10_000, capture=1.0)[0] == 16


def test_a_stack_is_one_capture(choose):
    speeds = {64: 100.0, 256: 300.0, 1000: 500.0}
    assert choose(wanted=1000, steps=10, capture=1.0, speeds=speeds, model="mlp")[0] == 1000
    assert choose(wanted=1000, steps=10, capture=30.0, speeds=speeds, model="mlp")[0] == 256


@pytest.mark.parametrize(("given", "used"), [(None, "32"), ("4", "4")])
@pytest.mark.slow
def test_the_gpu_gets_a_queue_for_each_stream_unless_the_user_says_otherwise(given, used):
    name = "CUDA_DEVICE_MAX_CONNECTIONS"
    rest = {key: value for key, value in os.environ.items() if key != name}
    asked = [sys.executable, "-c", f"import os, samlib.training; print(os.environ['{name}'])"]
    said = subprocess.run(asked, env=rest | ({name: given} if given else {}), capture_output=True, text=True)
    assert said.stdout.strip() == used, said.stderr
