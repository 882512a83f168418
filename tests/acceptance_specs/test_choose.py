"""Which published row speaks for a workload, and how it goes on where nobody measured."""

from __future__ import annotations

import importlib

import numpy as np
import pytest

from magicplan.acceptance_specs import Wanted, choose
from magicplan.acceptance_specs.choose import choose_both
from magicplan.acceptance_specs.entry import Entry, entries
from magicplan.acceptance_specs.positions import beyond_measured
from magicplan.roofline.acceptance import Acceptance, PerPosition


def wanted(method: str, target: str, family: str, **more: object) -> Wanted:
    fields = {"ctx": (8192.0, 8192.0)} | more
    return Wanted(method=method, target=target, family=family, **fields)  # type: ignore[arg-type]


def rate(model: Acceptance, ctx: float = 8192.0, budget: float | None = None) -> float:
    return float(model.survival(1, ctx, budget)[0])


@pytest.mark.parametrize(
    ("target", "family"),
    [("qwen3-32b", "qwen3"), ("deepseek-v3", "deepseek_v3"), ("gpt-oss-20b", "gpt_oss")],
)
@pytest.mark.parametrize("ctx", [256.0, 8192.0, 131072.0])
def test_copying_speaks_for_no_target_that_did_not_ask_for_it(
    target: str, family: str, ctx: float
) -> None:
    """The row of the longest contexts once won every tie, and promised 9x."""
    rows = sorted(row.numbers[0] for row in entries("ngram"))
    found = choose(wanted("ngram", target, family, ctx=(ctx, ctx)))
    assert rate(found, ctx) == pytest.approx(rows[(len(rows) - 1) // 2])
    assert rate(found, ctx) < 0.3


def test_a_row_without_a_target_stands_behind_its_family_only() -> None:
    assert rate(choose(wanted("mtp", "glm-4.5", "glm4_moe"))) == pytest.approx(0.92)
    by_task = choose(wanted("mtp", "glm-4.5", "glm4_moe", task="gsm8k"))
    assert rate(by_task) == pytest.approx(0.7617)
    # of three tasks measured elsewhere the median one, the row of no target among them
    assert rate(choose(wanted("mtp", "mimo-7b", "mimo"))) == pytest.approx(0.875)


def test_a_task_is_found_however_it_is_spelt() -> None:
    for task in ("mtbench", "MT-Bench", "mt bench"):
        found = choose(wanted("eagle3", "llama-3.1-8b", "llama", task=task))
        assert rate(found) == pytest.approx(0.768858)


def test_rows_of_one_task_on_many_targets_give_their_median() -> None:
    rows = [r for r in entries("eagle3") if r.task.lower() == "gsm8k"]
    assert len(rows) > 3
    first = sorted(r.numbers[0] for r in rows)
    found = choose(wanted("eagle3", "mistral-7b-v0.3", "mistral", task="GSM8K"))
    assert rate(found) == pytest.approx(first[(len(first) - 1) // 2])
    near = choose(wanted("eagle3", "qwen3-30b-a3b", "qwen3_moe", task="gsm8k"))
    own = next(r for r in rows if r.target == "qwen3-30b-a3b")
    assert rate(near) == pytest.approx(own.numbers[0])


def row(task: str, first: float, ctx: tuple[float, float], method: str = "alpha") -> Entry:
    return Entry(
        target="t", family="f", task=task, kind=method, ctx=ctx, basis="b", source="s", url="",
        seen="2026-11-25", spread=0.01, numbers=(first,),
    )  # fmt: skip


def test_context_chooses_between_the_rows_of_one_task(monkeypatch: pytest.MonkeyPatch) -> None:
    short, long = (1.0, 2048.0), (4096.0, 65536.0)
    rows = (row("a", 0.1, short), row("a", 0.2, long), row("b", 0.5, short), row("c", 0.9, long))
    table = importlib.import_module("magicplan.acceptance_specs.choose")  # its name is a function's
    monkeypatch.setattr(table, "entries", lambda method: rows)
    for ctx, task, found in (
        (8192.0, None, 0.5), (8192.0, "a", 0.2), (512.0, "a", 0.1), (512.0, None, 0.5)
    ):  # fmt: skip
        asked = wanted("ngram", "t", "f", ctx=(ctx, ctx), task=task)
        assert rate(choose(asked)) == pytest.approx(found)


@pytest.mark.parametrize("budget", [256.0, 512.0, 4096.0])
def test_quantising_never_raises_acceptance(budget: float) -> None:
    asked = wanted("streaming", "llama-3.1-8b", "llama", ctx=(32e3, 32e3), budget=budget)
    cache = choose(asked)
    weights = wanted("quant-weights", "llama-3.1-8b", "llama", ctx=(32e3, 32e3))
    both = choose_both(asked, weights)
    one, other = rate(cache, 32e3, budget), rate(choose(weights), 32e3, budget)
    assert rate(both, 32e3, budget) == pytest.approx(one * other)
    assert "streaming times quant-weights" in both.origin
    assert both.uncertainty >= cache.uncertainty
    # where the budget holds the context the cache costs nothing, and the weights still do
    assert rate(both, budget, budget) == pytest.approx(other)


def test_positions_nobody_measured_fall_as_longer_rows_do() -> None:
    model = choose(wanted("mtp", "deepseek-v3", "deepseek_v3"))
    survival = model.survival(6, 8192.0)
    rates = survival / np.concatenate([[1.0], survival[:-1]])
    longer = [row.numbers for row in entries("mtp") if len(row.numbers) > 1]
    falls = sorted((s[-1] / s[-2] / s[0]) ** (1 / (len(s) - 1)) for s in longer)
    fall = falls[(len(falls) - 1) // 2]
    assert 0.7 < fall < 0.8
    assert rates.tolist() == pytest.approx((0.875 * fall ** np.arange(6)).tolist())
    assert f"positions beyond 1 times {fall:.2f} each" in model.origin
    low, high = (end.survival(3, 8192.0) for end in model.interval())
    assert high[0] - low[0] == pytest.approx(2 * model.uncertainty, abs=0.01)
    # the upper end holds an acceptance that does not fall, and more
    assert (high >= 0.875 ** np.arange(1, 4)).all()
    assert low[1] / low[0] < rates[1] - model.uncertainty - 0.1


def test_a_row_longer_than_all_goes_on_as_it_did_and_never_rises() -> None:
    rising = PerPosition(conditional=(0.2, 0.4), origin="t", uncertainty=0.02)
    on, words = beyond_measured(rising, (), widest=0.3)
    assert on.conditional[2:5] == (0.4, 0.4, 0.4)
    assert "times 1.00" in words
    low, high = (end.survival(4, 1.0) for end in on.interval())
    assert high[2] / high[1] == pytest.approx(0.4 + 0.02 + 0.02)
    assert low[3] / low[2] == pytest.approx(0.4 - 0.02 - 0.04)
    falling, _ = beyond_measured(
        PerPosition(conditional=(0.8, 0.4), origin="t", uncertainty=0.02), (), widest=0.3
    )
    assert falling.conditional[2:4] == pytest.approx((0.2, 0.1))
    zero, _ = beyond_measured(PerPosition(conditional=(0.0,), origin="t"), (), widest=0.3)
    assert set(zero.conditional) == {0.0}
