"""Measuring, on a decoder that does nothing: what is skipped and why, what a line holds."""

from __future__ import annotations

import time
from collections.abc import Sequence

import pytest

torch = pytest.importorskip("torch")

from magicplan.errors import DoesNotFit
from magicplan.validate.measure.cells import (
    Loaded,
    calibrate_at,
    end_to_end,
    measure_cell,
    memory_for,
)
from magicplan.validate.measure.clock import Effort, Step, clock_of
from magicplan.validate.measure.grid import CalibrationPoint, Point

POINTS = [Point(batch=8, ctx=100, gamma=g) for g in (2, 4)]
EFFORT = Effort(least=3, most=3, seconds=0.0)


def refusal_of_the_cpu() -> Exception:
    """What torch really raises for an array that no machine can hold."""
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 58, dtype=torch.uint8)
    return caught.value


REFUSALS = [torch.OutOfMemoryError("CUDA out of memory"), refusal_of_the_cpu(), MemoryError()]


class Nothing:
    """A loaded decoder whose rounds commit gamma tokens."""

    def __init__(self) -> None:
        self.rounds: dict[str, int] = {}

    def target(self, query_tokens: int) -> Step:
        return lambda: None

    def verify(self, point: Point) -> Step:
        return lambda: None

    draft = verify

    def round(self, point: Point) -> Step:
        def step() -> None:
            self.rounds[point.id] = self.rounds.get(point.id, 0) + 1

        return step

    def plain(self, point: Point) -> Step:
        def step() -> None:
            time.sleep(0.001)
            self.rounds["plain"] = self.rounds.get("plain", 0) + 1

        return step

    def rewind(self, point: Point) -> int:
        return 10

    def emitted(self, point: Point) -> int:
        return self.rounds.pop(point.id, 0) * point.gamma + self.rounds.pop("plain", 0)


class Bench:
    device = "cpu"
    simulated = True

    def __init__(self, sequence_bytes: float = 0.0, fails: Exception | None = None) -> None:
        self.sequence_bytes, self.fails = sequence_bytes, fails

    def load(self, batch: int, ctx: int, points: Sequence[Point]) -> Loaded:
        if self.fails:
            raise self.fails
        return Nothing()

    def needed_bytes(self, batch: int, ctx: int, points: Sequence[Point]) -> float:
        return batch * self.sequence_bytes


class Steady:
    best_bytes_per_s = 4e10

    def drift(self) -> float:
        return 1.3


def measured(bench: Bench) -> list[dict[str, object]]:
    return measure_cell(bench, clock_of("cpu"), POINTS, EFFORT, Steady())  # type: ignore[arg-type]


def test_a_line_holds_samples_tokens_and_drift() -> None:
    lines = measured(Bench())
    assert [line["id"] for line in lines] == [p.id for p in POINTS]
    assert [line["emitted_tokens"] for line in lines] == [[2, 2, 2], [4, 4, 4]]
    assert set(lines[0]["samples"]) == {"decode", "draft", "verify", "round"}  # type: ignore[call-overload]
    assert "memory became 1.30 times slower" in str(lines[0]["flags"])


def test_too_large_a_cell_says_what_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("magicplan.validate.measure.cells.memory_bytes", lambda device: 5.5e9)
    lines = measured(Bench(sequence_bytes=1e9, fails=REFUSALS[0]))
    wanted = "needs 8 GB, 5.50 GB are free; the largest batch at this context is 5"
    assert {line["skipped"] for line in lines} == {wanted}
    none = measured(Bench(sequence_bytes=9e9, fails=REFUSALS[0]))
    assert "no batch fits here" in str(none[0]["skipped"])


@pytest.mark.parametrize("refusal", REFUSALS, ids=["gpu", "cpu", "python"])
def test_out_of_memory_all_the_same_is_a_skipped_point(
    monkeypatch: pytest.MonkeyPatch, refusal: Exception
) -> None:
    monkeypatch.setattr("magicplan.validate.measure.cells.memory_bytes", lambda device: 8e9)
    lines = measured(Bench(sequence_bytes=1e9, fails=refusal))
    wanted = "out of memory (predicted 8 GB, now free 8 GB); the largest batch at this context is 7"
    assert [line["skipped"] for line in lines] == [wanted] * 2


@pytest.mark.parametrize("refusal", [None, *REFUSALS], ids=["before", "gpu", "cpu", "python"])
def test_a_calibration_that_does_not_fit_names_the_largest_batch(
    monkeypatch: pytest.MonkeyPatch, refusal: Exception | None
) -> None:
    free = 4e9 if refusal else 2.5e9
    monkeypatch.setattr("magicplan.validate.measure.cells.memory_bytes", lambda device: free)
    bench, at = Bench(sequence_bytes=1e9, fails=refusal), CalibrationPoint(batch=3, ctx=64)
    with pytest.raises(DoesNotFit, match=r"calibration at batch 3, 64 tokens .* batch .* is 2;"):
        calibrate_at(bench, clock_of("cpu"), at, EFFORT, Steady())  # type: ignore[arg-type]


def test_another_error_of_the_decoder_is_not_taken_for_memory() -> None:
    with pytest.raises(RuntimeError, match="shapes differ"):
        measured(Bench(fails=RuntimeError("shapes differ")))


@pytest.mark.parametrize("refusal", REFUSALS, ids=["gpu", "cpu", "python"])
def test_memory_that_runs_out_elsewhere_is_one_sentence(refusal: Exception) -> None:
    wanted = "loading the models ran out of memory; take"
    with pytest.raises(DoesNotFit, match=wanted), memory_for("loading the models"):
        raise refusal


def test_real_acceptance_measures_rounds_before_other_steps_write() -> None:
    order: list[str] = []

    class Noting(Nothing):
        def target(self, query_tokens: int) -> Step:
            return lambda: order.append("decode")

        def round(self, point: Point) -> Step:
            return lambda: order.append("round")

    class Real(Bench):
        simulated = False

        def load(self, batch: int, ctx: int, points: Sequence[Point]) -> Loaded:
            return Noting()

    measured(Real())
    assert "round" not in order[order.index("decode") :]


def test_a_calibration_point_has_every_width_a_draft_and_a_round() -> None:
    at = CalibrationPoint(batch=2, ctx=64)
    line = calibrate_at(Bench(), clock_of("cpu"), at, EFFORT, Steady())  # type: ignore[arg-type]
    kinds = [(r["kind"], r["query_tokens"]) for r in line["records"]]
    assert kinds == [*(("target", t) for t in at.query_tokens), ("draft", 1), ("round", 5)]
    assert all(r["seconds"] > 0 for r in line["records"])


def test_end_to_end_counts_what_is_committed_by_the_wall_clock() -> None:
    found = end_to_end(Bench(), clock_of("cpu"), POINTS[1], seconds=2e-5)
    assert found["plain"]["tokens"] == found["plain"]["steps"]
    assert found["plain"]["steps"] % 10 == 0
    assert found["speculative"]["tokens"] == 4 * found["speculative"]["steps"]
    rates = [found[side]["tokens"] / found[side]["seconds"] for side in ("speculative", "plain")]
    assert found["plain"]["seconds"] >= 2e-5
    assert found["speedup"] == pytest.approx(rates[0] / rates[1])
