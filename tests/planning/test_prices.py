"""Prices: one basis for those that ship, one line for one's own, GPU counts where there is none."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import magicplan as mp
from magicplan import hardware_specs
from magicplan.errors import SpecError, UsageError
from magicplan.hardware_specs.accelerator import Accelerator
from magicplan.hardware_specs.offers import BASIS, KINDS, Offer, price_of
from magicplan.planning.question import objective_with, prices_for
from magicplan.planning.request import DEFAULT_GPUS

QUICK: dict[str, Any] = {
    "requests_per_s": 1, "prompt": 512, "output": 64, "drafts": "none", "stack": "ideal",
    "disaggregation": "off", "tp": 1,
}  # fmt: skip


def gpus(*names: str) -> list[Accelerator]:
    return [hardware_specs.load(name) for name in names]


@pytest.mark.parametrize("a", hardware_specs.all_accelerators(), ids=lambda a: a.name)
def test_a_shipped_price_is_the_median_of_offers_of_one_kind(a: Accelerator) -> None:
    counted = [o for o in a.offers if o.kind == BASIS]
    assert {o.kind for o in a.offers} <= set(KINDS)
    assert max(Counter(o.provider.split()[0] for o in counted).values(), default=1) == 1
    if not counted:
        assert a.price_usd_per_hour is None
        assert a.price_note == ""
        return
    usd = [float(o.usd_per_hour or math.nan) for o in counted]
    assert a.price_usd_per_hour == statistics.median(usd)
    assert all(o.seen in a.price_note for o in counted)
    if len(usd) > 1:
        assert f"{min(usd):.2f} to {max(usd):.2f}" in a.price_note


def test_the_median_by_hand() -> None:
    def offer(usd: float, kind: str = BASIS) -> Offer:
        return Offer(kind=kind, provider=f"p{usd}", seen="2026-11", usd_per_hour=usd)

    assert price_of([offer(5), offer(2), offer(3), offer(0.2, "marketplace floor")])[0] == 3
    assert price_of([offer(2), offer(3)])[0] == 2.5
    assert price_of([offer(2, "3-year rent")]) == (None, "")


def test_what_a_plan_looks_at_by_default_has_a_price() -> None:
    assert all(a.price_usd_per_hour for a in gpus(*DEFAULT_GPUS))


def test_one_line_overrides_one_price(tmp_path: Path) -> None:
    path = tmp_path / "prices.toml"
    path.write_text("[usd_per_hour]\nh100 = 0.5\n", encoding="utf-8")
    for stated in (str(path), {"H100 SXM": 0.5}):
        found = prices_for(gpus("h100", "l40s"), stated, needed=True)
        assert (found["h100-sxm"].usd_per_hour, found["h100-sxm"].indicative) == (0.5, False)
        assert found["l40s"].usd_per_hour == hardware_specs.load("l40s").price_usd_per_hour
        assert found["l40s"].indicative


def test_a_price_that_is_missing_is_named_with_what_is_known_instead() -> None:
    with pytest.raises(UsageError, match=r"mi355x \(.*3-year rent") as problem:
        prices_for(gpus("h100", "mi355x"), None, needed=True)
    assert "objective gpus" in str(problem.value)
    assert not prices_for(gpus("h100", "mi355x"), {"mi355x": 3.0}, needed=True)["mi355x"].indicative


def test_without_any_price_plans_go_by_gpu_count_and_say_so() -> None:
    objectives: tuple[dict[str, Any], ...] = ({}, {"objective": "gpus"})
    for options in objectives:
        found = mp.plan(gpus="mi355x", **QUICK, **options)
        assert found.request.money.objective == "gpus"
        assert math.isnan(found.best.cost_usd_per_hour)
        assert "at no known price" in found.verdict
        assert any("planned by GPU count" in line for line in found.assumptions)
    with pytest.raises(SpecError, match="cannot be read"):
        mp.plan(gpus="mi355x", prices="none.toml", **QUICK)


def test_an_objective_asked_for_stays_where_it_can() -> None:
    priced = prices_for(gpus("h100"), None, needed=True)
    free = prices_for(gpus("mi355x"), None, needed=True)
    assert objective_with(priced, "cost") == "cost"
    assert objective_with(free, "cost") == "gpus"
    assert objective_with(free, "energy") == "energy"


@pytest.mark.parametrize(
    ("lines", "wrong"),
    [
        ('kind = "cheap"\nprovider = "p"\nseen = "2026"\nusd_per_hour = 1', r"offers\[0\].kind"),
        ('kind = "on demand"\nprovider = "p"\nseen = "2026"', "usd_per_hour"),
        ('kind = "on demand"\nprovider = "p"\nseen = "2026"\nlow = 3\nhigh = 2', "no lower"),
        ('kind = "on demand"\nprovider = "p"\nseen = "2026"\nusd_per_hour = -1', "usd_per_hour"),
        ('kind = "on demand"\nusd = 1', r"offers\[0\]\.usd"),
    ],
)
def test_a_bad_offer_of_ones_own_file_names_its_field(
    lines: str, wrong: str, tmp_path: Path
) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        'name = "mine"\nunits = 100\nmemory_bytes = 80e9\nmemory_bytes_per_s = 2e12\n'
        f"[dense_flops_per_s]\nbf16 = 300e12\n[[offers]]\n{lines}\n",
        encoding="utf-8",
    )
    with pytest.raises(SpecError, match=wrong):
        hardware_specs.load(str(path))
