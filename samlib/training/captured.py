"""Train on a GPU: capture each model's step once as a CUDA graph, and replay it, for several models side by side.

A step is hundreds of short kernels, and a GPU runs them faster than Python launches them. A captured step is launched as
a whole. One model leaves a part of the GPU idle. So several models train side by side, each with its own graph, stream
and memory.

Measured with torch 2.11 in November 2026, in images through forward and backward a second. The model is resnet18 at 32 x 32,
with batches of 125, augmentation and bfloat16.

- One H100. In one run a plain loop reached 7,465; four captured models side by side reached 52,200 (SGD) and 51,200 (SAM). In
  another run, compiling raised 52,100 to 62,100 (SGD) and 51,700 to 61,700 (SAM).
- One H200. One, four and eight models side by side reached 42,700, 58,800 and 57,900 (SGD); compiled, 50,600, 69,600 and 68,700.
  In the same run, seven pairs of 60 epochs reached 60,600, with the start (43 s, 24 s of it compiling) and evaluation. On another
  day five pairs reached 53,200 so, and 63,200 without the start (66 s, 25 s of it to decode the images).
"""

import gc
import json
import os
import time
from collections.abc import Mapping, Sequence
from math import ceil, inf
from typing import NamedTuple

import numpy as np
import torch

from samlib.training.common import Training, on_device, trained
from samlib.training.each import COMPILED, COMPILERS, OneModel, compile_passes
from samlib.training.stacked import Stacked, is_stacked

SIDE_BY_SIDE = (1, 4, 8, 16, 32)  # the numbers of models at once to try
# A stream needs a queue of its own on the GPU, or it waits for others. CUDA makes 8 queues; 32 is its limit. It reads this
# when it starts, so a program that used the GPU before it imported samlib keeps 8.
os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "32")
STACKED = (64, 256, 1024)  # the same, for a stack
WORTH = 1.05  # try the next number if this one trained at least so many times as fast as the last
SPARE = 0.3  # share of the GPU's memory to leave for the evaluation
WARM, TIMED = 2, 20  # steps of each kind before the first capture, and steps in a measurement
# The compiler's gain (a share) and cost (seconds) for resnet18 on that H100; each process measures the cost again.
COMPILER_GAINS, COMPILER_TAKES = 0.15, 22.0
APART = ("optimizer", "rho", "alpha", "m_sharpness")  # fields that may differ within a pair
ELSEWHERE = ("dataset", "pool", "image_size", "seed", "n_models", "subset_fraction")  # fields that a step does not read


class Strategy(NamedTuple):
    """How models are trained: `at_once` together, with compiled passes or without; `said` is a remark on it."""

    at_once: int
    compiled: bool
    said: str


def capture(training: Training, first: bool = True) -> None:
    """Let a training replay its step on a stream and in memory of its own. Raises RuntimeError if that fails.

    first: whether this is the recipe's first capture. Later trainings take only one step before it, to make their state.
    """
    training.stream = torch.cuda.Stream()
    kinds = [(size, taken) for size in sorted(set(training.batches)) for taken in range(min(2, training.period))]
    graphs: dict[tuple[int, int], torch.cuda.CUDAGraph] = {}
    pool: tuple = ()
    for size, taken in kinds * WARM if first else kinds[:1]:  # on the usual stream, whose memory is used again
        training.rewind(taken)
        training.step(size)
    training.stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(training.stream):
        for size, taken in kinds:
            training.rewind(taken)
            training.stream.synchronize()
            # `torch.cuda.graph` would give all spare memory back to the system each time
            graphs[size, taken] = graph = torch.cuda.CUDAGraph()
            graph.capture_begin(*pool)
            try:
                training.step(size)
            finally:
                graph.capture_end()
            pool = (graph.pool(),)  # they share one, since they never run at the same time
    training.run = lambda size: graphs[size, int(training.taken % training.period > 0)].replay()


class Engine:
    """The captured trainings of one recipe, data set and GPU. They can train model after model."""

    def __init__(self, recipe: Mapping, data: Mapping, n: int, device: str, compiled: bool = False):
        self.recipe, self.data, self.n, self.compiled = recipe, data, n, compiled
        self.sides, self.y, self.classes = on_device(data, device)
        self.trainings: list[Training] = []
        self.said = self.loose = ""  # the compiler's outcome; the reason why steps are not captured

    def resize(self, k: int) -> None:
        """Set the number of models at once to k. Raises OutOfMemoryError if the GPU's memory is too small."""
        make = self.recipe, self.sides[0], self.y, self.n, self.classes
        gc.collect()  # to free a graph while another is captured would spoil the capture
        torch.cuda.empty_cache()
        if is_stacked(self.recipe):
            if [len(training.order) for training in self.trainings] != [k]:
                self.trainings = []
                self.trainings = [self._captured(Stacked(*make, k))]
            return
        del self.trainings[k:]
        while len(self.trainings) < k:
            self.trainings.append(self._captured(OneModel(*make)))

    def _captured(self, training: Training) -> Training:
        before, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, True
        try:
            if self.compiled and isinstance(training, OneModel):
                self.said = compile_passes(training, COMPILERS["cuda"])
            capture(training, first=not self.trainings)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            training.run, training.stream = training.step, None
            self.loose = f", not captured ({str(error).splitlines()[0]})"
        finally:
            torch.backends.cudnn.benchmark = before
        return training

    def speed(self) -> float:
        """Measure the steps a second, summed over models."""
        batches = self.trainings[0].batches[:TIMED]
        for _ in range(2):
            for training in self.trainings:
                with training.on_stream():
                    training.rewind()
            torch.cuda.synchronize()
            start = time.perf_counter()
            for size in batches:
                for training in self.trainings:
                    with training.on_stream():
                        training.advance(size)
            torch.cuda.synchronize()
            spent = time.perf_counter() - start
        k = sum(training.order[..., 0].numel() for training in self.trainings)
        return k * len(batches) / spent

    def fit(self, wanted: int) -> tuple[int, float]:
        """Find the best number of models at once, at most `wanted`, and resize to it. Returns it and its speed.

        A larger number is tried only if another gain like the last one would save more time than the captures cost.
        """
        best, fastest, gain, each = 0, 0.0, inf, 0.0
        for k in sorted({min(k, wanted) for k in (STACKED if is_stacked(self.recipe) else SIDE_BY_SIDE)}):
            had, more = len(self.trainings), 1 if is_stacked(self.recipe) else k - best
            if gain < inf and wanted * self.trainings[0].steps / fastest * (1 - 1 / gain) < more * each:
                break
            start = time.perf_counter()
            try:
                self.resize(k)
                each = (time.perf_counter() - start) / max(len(self.trainings) - had, 1)
                speed = self.speed()
            except torch.OutOfMemoryError:
                if not best:
                    raise
                break
            if best and speed <= WORTH * fastest:
                break
            gain = speed / fastest if best else inf
            best, fastest = k, speed
            free, total = torch.cuda.mem_get_info()
            if self.loose or free < SPARE * total:
                break
        self.resize(best)
        return best, fastest

    def train(self, streams: Sequence, members: Sequence[np.ndarray]) -> list[list[torch.Tensor]]:
        """Train models at once. Returns their logits on the training and the test side, as `train_each`."""
        self.resize(len(streams))
        each = [([s], [m]) for s, m in zip(streams, members, strict=True)]
        return trained(self.trainings, [(streams, members)] if is_stacked(self.recipe) else each, self.sides)


_strategies: dict[str, Strategy] = {}
_engines: dict[str, Engine] = {}
_took: dict[str, float] = {}


def strategy(recipe: Mapping, data: Mapping, n: int, device: str, wanted: int) -> Strategy:
    """The strategy of a recipe and its partners in a pair: measured at the first call, then kept by the process.

    n: the number of examples that a model trains on. wanted: the number of models to train; the compiler pays only for many.
    """
    key = f"{_key(recipe, data, n, APART)} {is_stacked(recipe)}"
    if key not in _strategies:
        _engines.clear()  # other pairs hold memory that may be needed
        with torch.cuda.device(device):
            _strategies[key] = _chosen(recipe, data, n, device, wanted)
    return _strategies[key]


def _chosen(recipe: Mapping, data: Mapping, n: int, device: str, wanted: int) -> Strategy:
    engine = _engine(recipe, data, n, device, False)
    k, speed = engine.fit(wanted)
    if is_stacked(recipe) or engine.loose:
        return Strategy(k, False, engine.loose)
    passes = 2 if recipe["rho"] else 1
    left = wanted * engine.trainings[0].steps / speed * 3 / passes  # seconds of the pair: SGD has one pass, SAM two
    if left * COMPILER_GAINS < _took.get(recipe["model"], COMPILER_TAKES):
        return Strategy(k, False, ", not compiled: too little is left to train")
    _engines.clear()  # two sets of trainings may not fit into memory
    del engine
    start = time.perf_counter()
    engine = _engine(recipe, data, n, device, True)
    compiled, faster = engine.fit(wanted)
    _took[recipe["model"]] = time.perf_counter() - start
    if faster > speed or COMPILED not in engine.said:
        return Strategy(compiled, COMPILED in engine.said, engine.said + engine.loose)
    _engines.clear()
    return Strategy(k, False, ", not compiled: that was slower")


def _engine(recipe: Mapping, data: Mapping, n: int, device: str, compiled: bool) -> Engine:
    """The engine of a recipe. The two used last are kept, one for each side of a pair."""
    key = f"{_key(recipe, data, n)} {device} {compiled}"
    engine = _engines.pop(key, None)
    while len(_engines) > 1:
        del _engines[next(iter(_engines))]
    _engines[key] = engine or Engine(recipe, data, n, device, compiled)
    return _engines[key]


def _key(recipe: Mapping, data: Mapping, n: int, without: Sequence[str] = ()) -> str:
    """All that a step depends on. An engine keeps its data, so no other data can take over their `id`."""
    fields = {name: value for name, value in recipe.items() if name not in (*ELSEWHERE, *without)}
    return f"{json.dumps(fields, sort_keys=True)} {n} {id(data)}"


def train_captured(recipe: Mapping, data: Mapping, streams, members, device: str, wanted: int = 0):
    """Train models on a GPU by their strategy. Arguments and results as in `train_each`."""
    n = int(members[0].sum())
    how = strategy(recipe, data, n, device, max(wanted, len(streams)))
    with torch.cuda.device(device):
        try:
            engine, results = _engine(recipe, data, n, device, how.compiled), []
            waves = ceil(len(streams) / how.at_once)
            for wave in np.array_split(np.arange(len(streams)), waves):
                results += engine.train([streams[i] for i in wave], [members[i] for i in wave])
        except torch.OutOfMemoryError:
            _engines.clear()
            raise
    kind = "stacked" if is_stacked(recipe) else "channels-last"
    captured = "" if engine.loose else ", captured"
    said = f"{ceil(len(streams) / waves)} at once, {kind}{captured}{how.said}{engine.trainings[0].trouble()}"
    return *map(torch.cat, zip(*results, strict=True)), said
