"""The clock: alternation, warm-up and intervals, on a clock that counts instead of waiting."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest

from magicplan.validate.measure.clock import Effort, Samples, Step, alternate, interval, warm_up


class Counting:
    """A clock on which every step takes a scripted time and is noted."""

    def __init__(self, times: list[float]) -> None:
        self.times, self.calls = times, 0

    def prepared(self, step: Step) -> Step:
        return step

    def agreed(self, decision: Any) -> Any:
        return decision

    def time(self, step: Step) -> tuple[float, float | None]:
        step()
        self.calls += 1
        return self.times[min(self.calls, len(self.times)) - 1], None


def test_steps_alternate_and_every_sample_is_kept() -> None:
    order: list[str] = []
    heard: list[str] = []
    steps: dict[str, Step] = {name: functools.partial(order.append, name) for name in "ab"}
    samples = alternate(Counting([1.0]), steps, Effort(least=3, most=3, seconds=0), heard.append)
    assert heard == ["", *"ababab"]
    assert "".join(order).endswith("ababab")
    assert [len(s.wall) for s in samples.values()] == [3, 3]


def test_a_warm_up_ends_when_two_medians_agree() -> None:
    clock = Counting([9.0, 9, 9, 4, 4, 4, 2, 2, 2, 1.99, 1.99, 1.99, 1, 1, 1])
    warm_up(clock, lambda: None, Effort(seconds=60))
    assert clock.calls == 12


def test_the_interval_holds_the_median() -> None:
    values = np.random.default_rng(0).normal(10, 1, 200).tolist()
    found = interval(values)
    assert found.low < found.median < found.high
    # of a median: 1.253 sigma / sqrt(n) on each side, times 1.96
    assert found.high - found.low == pytest.approx(2 * 1.96 * 1.253 / np.sqrt(200), rel=0.4)
    assert interval([2.0, 2.0, 2.0]).low == 2.0
    assert interval([1.0]).high == 1.0


def test_own_time_is_judged_where_it_is_known() -> None:
    samples = Samples()
    for wall in (1.0, 5.0, 1.2):
        samples.add((wall, 1.0))
    assert samples.judged == [1.0, 1.0, 1.0]
    assert samples.disturbance == pytest.approx(1.2)
    assert Samples(wall=[3.0]).judged == [3.0]
