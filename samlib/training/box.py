"""A time box: choose the models to train next, so that many pairs are whole when the time is up. Plain Python.

A task is a wave: some groups of one experiment. A pair is two experiments; their models k belong together. Two rules
choose the next task:

1. Models come first if their partner is there or in training, since they make a pair whole.
2. Else a new pair begins, with its lowest models, if the time should be enough for both of them.

A task should take as long as the slowest one of its experiment so far, plus a margin. An experiment that has run no task
yet is judged by its partner. If neither has run one, it begins as long as there is time.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf, log, sqrt

MARGIN = 1.1
GUESS = 1.25  # a margin on times that are guessed from the partner's


@dataclass
class Work:
    """The models of an experiment that are still missing.

    missing: whole groups, lowest models first. n_models: the experiment's number of models. size: models in a group.
    wave: models that a device trains at once. passes: passes over an example in a step, 1 for SGD and 2 for SAM.
    """

    missing: list[range]
    n_models: int
    size: int
    wave: int
    passes: int = 1
    seconds: dict[int, float] = field(default_factory=dict)  # the slowest task so far, by number of models

    def __post_init__(self):
        self.open = {k for group in self.missing for k in group}

    def has(self, models: range) -> bool:
        """Whether at least one of these models is there or in training."""
        return not self.open.issuperset(range(models.start, min(models.stop, self.n_models)))

    def take(self, groups: Sequence[range]) -> None:
        """Mark groups as in training."""
        self.missing = [group for group in self.missing if group not in groups]
        self.open.difference_update(*groups)

    def expected(self, n: int) -> float:
        """The seconds that n models should take, by those measured. Small waves are less efficient."""
        waves, rest = divmod(n, self.wave)
        return MARGIN * (waves * self._slowest(self.wave) + (self._slowest(rest) if rest else 0))

    def _slowest(self, n: int) -> float:
        nearest = min(self.seconds, key=lambda m: abs(log(m / n)))
        return self.seconds[nearest] * (n / nearest if n > nearest else sqrt(n / nearest))


class Box:
    """Chooses tasks. pairs: tuples of names in `works`, of length one for a single experiment. end: a time of `clock`."""

    def __init__(self, pairs: Sequence[Sequence], works: Mapping, end: float = inf, clock=time.monotonic):
        self.pairs, self.works, self.end, self.clock = pairs, works, end, clock

    def left(self) -> float:
        """Seconds until the time is up."""
        return self.end - self.clock()

    def take(self, room: float = inf) -> tuple | None:
        """The next task, a name and its groups; None if none is left or fits. room: the most models to add."""
        if (left := self.left()) <= 0:
            return None
        for _, _, name, groups, partners in sorted(self._candidates(), key=lambda task: task[:2]):
            if groups := self._fitting(name, groups, partners, left, room):
                self.works[name].take(groups)
                return name, groups
        return None

    def finished(self, name, groups: Sequence[range], seconds: float) -> None:
        """Note that a task of `take` is done, and the seconds it took until it was written."""
        measured, n = self.works[name].seconds, sum(map(len, groups))
        measured[n] = max(seconds, measured.get(n, 0.0))

    def _candidates(self) -> Iterator[tuple]:
        """Yield tasks: (begins a pair, (first model, place of the pair), name, groups, partners that must follow)."""
        for place, pair in enumerate(self.pairs):
            works, fresh = {name: self.works[name] for name in pair}, {}
            for name, work in works.items():
                others = [w for other, w in works.items() if other != name]
                fresh[name], begun = list[range](), list[range]()
                for group in work.missing:
                    (begun if any(other.has(group) for other in others) else fresh[name]).append(group)
                if begun:
                    yield False, (begun[0].start, place), name, begun, ()
            # larger groups lead: each smaller one that follows then makes pairs whole
            lead = max(fresh, key=lambda name: (bool(fresh[name]), works[name].size))
            if fresh[lead]:
                first = fresh[lead][0]
                partners = [name for name, w in works.items() if name != lead and not w.open.isdisjoint(first)]
                yield True, (first.start, place), lead, fresh[lead], partners

    def _fitting(self, name, groups: list[range], partners: Sequence, left: float, room: float) -> list[range]:
        """As many of the groups as fit into a wave, the time and the room, with their partners."""
        size = self.works[name].size
        for count in range(min(len(groups), max(1, self.works[name].wave // size)), 0, -1):
            n = count * size
            follow = {p: n if count > 1 else min(n, self.works[p].size) for p in partners}
            needed = self._seconds(name, n) + sum(self._seconds(p, m) for p, m in follow.items())
            if needed <= left and n + sum(follow.values()) <= room:
                return groups[:count]
        return []

    def _seconds(self, name, n: int) -> float:
        """The seconds that n models should take: as measured, or guessed from the partners', or 0 if nothing is known."""
        work = self.works[name]
        if work.seconds:
            return work.expected(n)
        partners = [self.works[other] for pair in self.pairs if name in pair for other in pair]
        return GUESS * max((p.expected(n) * work.passes / p.passes for p in partners if p.seconds), default=0.0)
