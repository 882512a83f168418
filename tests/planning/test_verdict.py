"""The sentence of a plan, by hand."""

from __future__ import annotations

import math
from dataclasses import replace

from magicplan.planning.verdict import alone_sentence, fleet_verdict, plan_verdict
from magicplan.planning.words import draft_words, limit_words
from tests.report.capacity.a_plan import a_plan, hopeless


def test_what_to_rent_names_fleet_cost_and_every_limit() -> None:
    p = a_plan()
    assert p.verdict.startswith("Rent 4 x h100-sxm (2 replicas of TP2, bf16, KV fp8) and ")
    assert "$10.00 an hour" in p.verdict
    assert "TPOT p95 20 ms (limit 40 ms, 80 % " in p.verdict
    free = replace(p.best, cost_usd_per_hour=math.nan, usd_per_million_tokens=math.nan, gamma=0)
    text = plan_verdict(free, {}, (), {})
    assert "$" not in text
    assert (
        "do not speculate: at no known price, TTFT p95 " in text
    )  # the usual two where none is limited


def test_where_nothing_meets_the_limits_the_sentence_says_by_how_much() -> None:
    p = hopeless()
    text = plan_verdict(p.best, p.slo, (), {"tpot_p95_seconds": 0.05})
    assert "is 1.5 times over on TPOT p95, which nothing searched brings below 50 ms." in text
    assert "brings below" not in plan_verdict(p.best, p.slo, (), {"tpot_p95_seconds": 0.03})
    endless = replace(p.best, violations={"ttft_p95_seconds": math.inf})
    assert "is out of bounds on TTFT p95" in plan_verdict(endless, p.slo, (), {})


def test_mixes_and_words() -> None:
    assert fleet_verdict({"h100-sxm": 3, "l40s": 14}, 12.5) == (
        "Rent 3 x h100-sxm and 14 x l40s for $12.50 an hour."
    )
    assert alone_sentence(a_plan().best) == (
        "The best of one kind, 4 x h100-sxm, costs $10.00 an hour."
    )
    assert limit_words("ttft_p95_seconds") == "TTFT p95"
    assert limit_words("available") == "the GPUs at hand"
    assert draft_words("eagle3", 0, None) == "off"
    assert draft_words("eagle3", 1, None) == "eagle3, 1 token"
    assert draft_words("eagle3", 9, (10, 4)) == "eagle3, a tree of 10 nodes in 4 levels"
