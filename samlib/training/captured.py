"""Training on a GPU: each model's step is captured once as a CUDA graph and replayed, several models side by side.

A step is hundreds of short kernels, and a GPU runs them faster than Python launches them. A captured step is launched whole.
Models side by side, each with a graph, a stream and memory of its own, fill what one of them leaves idle.

Measured with torch 2.11 in November 2026: resnet18 at 32 x 32, batches of 125, augmented, bfloat16, in images through forward
and backward a second.

- One H100. In one run a plain loop took 7,465, and four captured models side by side 52,200 (SGD) and 51,200 (SAM). In another,
  compiling raised 52,100 to 62,100 (SGD) and 51,700 to 61,700 (SAM).
- One H200. One, four and eight models side by side took 42,700, 58,800 and 57,900 (SGD); compiled 50,600, 69,600 and 68,700.
  In the same run, seven pairs of 60 epochs took 60,600, with the start (43 s, of which compiling 24 s) and evaluation.
"""

from __future__ import annotations

import gc
import json
import time
from collections.abc import Mapping, Sequence
from math import ceil
from typing import NamedTuple

import numpy as np
import torch

from samlib.training.common import Inputs, Training, drive, evaluated
from samlib.training.each import COMPILED, COMPILERS, OneModel, compile_passes
from samlib.training.stacked import Stacked, is_stacked

SIDE_BY_SIDE = (1, 4, 8, 16, 32)  # how many models at once are tried
STACKED = (64, 256, 1024)  # likewise, in a stack
WORTH = 1.05  # a next number is tried while it trains so many times as fast
SPARE = 0.3  # share of the GPU's memory that is left to the evaluation
WARM, TIMED = 2, 20  # steps before a capture, and of a measurement
# What the compiler gained and took for resnet18 on that H100; what it takes is measured again in each process.
COMPILER_GAINS, COMPILER_TAKES = 0.15, 22.0
APART = ("optimizer", "rho", "alpha", "m_sharpness")  # fields in which the models of a pair may differ
ELSEWHERE = ("dataset", "pool", "image_size", "seed", "n_models", "subset_fraction")  # fields that a step does not read


class Strategy(NamedTuple):
    """How models are trained: `at_once` together, with compiled passes or not, and that in words."""

    at_once: int
    compiled: bool
    said: str


def capture(training: Training) -> None:
    """Let a training replay its step, on a stream and in memory of its own. Raises RuntimeError where that cannot be."""
    training.stream = torch.cuda.Stream()
    kinds = [(size, taken) for size in sorted(set(training.batches)) for taken in range(min(2, training.period))]
    graphs, pool = {}, ()
    training.stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(training.stream):
        for size, taken in kinds:
            for _ in range(WARM):
                training.rewind(taken)
                training.step(size)
        for size, taken in kinds:
            training.rewind(taken)
            training.stream.synchronize()
            # not by `torch.cuda.graph`, which gives all spare memory back to the system each time
            graphs[size, taken] = graph = torch.cuda.CUDAGraph()
            graph.capture_begin(*pool)
            try:
                training.step(size)
            finally:
                graph.capture_end()
            pool = (graph.pool(),)  # one for them all, for they never run at once
    training.run = lambda size: graphs[size, int(training.taken % training.period > 0)].replay()


class Engine:
    """The captured trainings of one recipe, data set and GPU. They wait for models."""

    def __init__(self, recipe: Mapping, data: Mapping, n: int, device: str, compiled: bool = False):
        self.recipe, self.data, self.n, self.compiled = recipe, data, n, compiled
        self.sides = [Inputs(data, side, device) for side in ("train", "test")]
        self.y = torch.tensor(np.asarray(data["y_train"]), device=device)
        self.trainings: list[Training] = []
        self.said = self.loose = ""  # of the compiler, and why steps are not captured

    def resize(self, k: int) -> None:
        """Make place for k models at once. Raises OutOfMemoryError where the GPU has not so much."""
        make, classes = (self.recipe, self.sides[0], self.y, self.n), int(self.data["n_classes"])
        gc.collect()  # a graph that is freed while another is captured spoils that
        torch.cuda.empty_cache()
        if is_stacked(self.recipe):
            if [len(training.order) for training in self.trainings] != [k]:
                self.trainings = []
                self.trainings = [self._captured(Stacked(*make, classes, k))]
            return
        del self.trainings[k:]
        while len(self.trainings) < k:
            self.trainings.append(self._captured(OneModel(*make, classes)))

    def _captured(self, training: Training) -> Training:
        before, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, True
        try:
            if self.compiled:
                self.said = compile_passes(training, COMPILERS["cuda"])
            capture(training)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            training.run, training.stream = training.step, None
            self.loose = f", not captured ({str(error).splitlines()[0]})"
        finally:
            torch.backends.cudnn.benchmark = before
        return training

    def speed(self) -> float:
        """Steps of a model a second, measured."""
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
        """The fastest number of models at once, at most about `wanted`, and its speed; resized to it."""
        best, fastest = 0, 0.0
        for k in STACKED if is_stacked(self.recipe) else SIDE_BY_SIDE:
            k = min(k, wanted)
            try:
                self.resize(k)
                speed = self.speed()
            except torch.OutOfMemoryError:
                if not best:
                    raise
                break
            if speed > fastest * (WORTH if best else 0):
                best, fastest = k, speed
            else:
                break
            free, total = torch.cuda.mem_get_info()
            if k == wanted or self.loose or free < SPARE * total:
                break
        self.resize(best)
        return best, fastest

    def train(self, streams: Sequence, members: Sequence[np.ndarray]) -> list[list[torch.Tensor]]:
        """Train models at once. Returns their logits on the training and the test set, as `train_each`."""
        stack = is_stacked(self.recipe)
        self.resize(len(streams))
        parts = [(streams, members)] if stack else [([s], [m]) for s, m in zip(streams, members, strict=True)]
        for training, part in zip(self.trainings, parts, strict=True):
            if training.stream is not None:  # what is evaluated on the usual stream is to end first
                training.stream.wait_stream(torch.cuda.current_stream())
            with training.on_stream():
                training.begin(*part)
        drive(self.trainings, self.recipe["epochs"])
        return [[evaluated(training, side) for side in self.sides] for training in self.trainings]


_strategies: dict[str, Strategy] = {}
_engines: dict[str, Engine] = {}
_took: dict[str, float] = {}


def strategy(recipe: Mapping, data: Mapping, n: int, device: str, wanted: int) -> Strategy:
    """How this process trains models of a recipe and of what is paired with it: measured at the first call, then kept.

    wanted: how many models are to be trained, which decides whether the compiler pays. n: examples of a model.
    """
    key = f"{_key(recipe, data, n, APART)} {is_stacked(recipe)}"
    if key not in _strategies:
        _engines.clear()  # of other pairs, whose memory may be needed
        with torch.cuda.device(device):
            _strategies[key] = _chosen(recipe, data, n, device, wanted)
    return _strategies[key]


def _chosen(recipe: Mapping, data: Mapping, n: int, device: str, wanted: int) -> Strategy:
    engine = _engine(recipe, data, n, device, False)
    k, speed = engine.fit(wanted)
    if is_stacked(recipe) or engine.loose:
        return Strategy(k, False, engine.loose)
    passes = 2 if recipe["rho"] else 1
    left = wanted * engine.trainings[0].steps / speed * 3 / passes  # of the pair: SGD's one pass and SAM's two
    if left * COMPILER_GAINS < _took.get(recipe["model"], COMPILER_TAKES):
        return Strategy(k, False, ", not compiled: too little is left to train")
    _engines.clear()  # for two sets of trainings there may be no place
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
    """The engine of a recipe; those of the two last used are kept, for the two sides of a pair."""
    key = f"{_key(recipe, data, n)} {device} {compiled}"
    engine = _engines.pop(key, None)
    while len(_engines) > 1:
        del _engines[next(iter(_engines))]
    _engines[key] = engine or Engine(recipe, data, n, device, compiled)
    return _engines[key]


def _key(recipe: Mapping, data: Mapping, n: int, without: Sequence[str] = ()) -> str:
    """What a step depends on. An engine keeps its data, so that no other data come to have their `id`."""
    fields = {name: value for name, value in recipe.items() if name not in (*ELSEWHERE, *without)}
    return f"{json.dumps(fields, sort_keys=True)} {n} {id(data)}"


def train_captured(recipe: Mapping, data: Mapping, streams, members, device: str, wanted: int = 0):
    """Train models on a GPU by their strategy. Returns logits (k, n, c), (k, t, c) on it, and how it was done."""
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
