"""A capacity plan as a page: what to buy and launch first, then why, then on what it rests."""

from __future__ import annotations

from collections.abc import Iterator

from magicplan.planning.words import tokens_words
from magicplan.report.capacity import basis, choice, fleet
from magicplan.report.capacity.words import (
    draft_words,
    ends_words,
    interval_of,
    is_mix,
    latency_of,
    limits_of,
    shape_words,
    spaced,
)
from magicplan.report.document.page import Brief, Code, Fact, Page, Tone
from magicplan.report.document.record import Record
from magicplan.units import Unit, show


def page(plan: Record) -> Page:
    """From the JSON of a plan. Raises SpecError naming a field that is missing or wrong."""
    feasible = plan.flag("feasible")
    mixed = is_mix(plan)
    first = (
        (choice.mix(plan), choice.one_kind(plan)) if mixed
        else (choice.launch(plan), choice.observed(plan), choice.limits(plan))
    )  # fmt: skip
    sections = (
        *first,
        choice.latency(plan),
        choice.candidates(plan),
        choice.pareto(plan),
        basis.memory(plan),
        basis.sensitivity(plan),
        basis.schedule(plan),
        basis.step_time(plan),
        basis.roofline(plan),
        basis.accuracy(plan),
        basis.assumptions(plan),
    )
    return Page(
        title=plan.text("name") or f"Capacity plan for {plan.text('model')}",
        verdict=plan.text("verdict"),
        tone=_tone(plan, feasible=feasible),
        subject=_subject(plan),
        facts=tuple(fleet.facts(plan.record("mixed"), alone=False) if mixed else _facts(plan)),
        sections=tuple(section for section in sections if section is not None),
        brief=_brief(plan, mixed=mixed),
    )


MOST_FACTS = 7
"""Numbers of the first screen; those of limits come before the rest."""


def _brief(plan: Record, *, mixed: bool) -> Brief:
    """What to rent with its numbers, and the command of the plan's own engine."""
    if mixed:
        return Brief(facts=tuple(fleet.facts(plan.record("mixed"), alone=False)), blocks=(),
                     rests_on=_basis(plan))  # fmt: skip
    commands = [entry.text("command", "") for entry in plan.records("launch")][:1]
    return Brief(
        again=True,
        facts=_first_facts(plan),
        blocks=tuple(Code(title="Launch a replica", text=text) for text in commands if text),
        rests_on=_basis(plan),
    )


LAST = ("cost of 1M output tokens", "output tokens/s a GPU")
"""Numbers that a first screen has room for last."""


def _first_facts(plan: Record) -> tuple[Fact, ...]:
    facts = sorted(_facts(plan), key=lambda fact: fact.name in LAST)
    return tuple(facts)[:MOST_FACTS]


def _basis(plan: Record) -> str:
    """The calibration, and what was assumed of the traffic."""
    calibration = plan.record("best").text("calibration", "")
    found = [f"calibration {calibration}"] if calibration else []
    source = plan.record("traffic").text("source", "")
    found += [source] if "assumed" in source else []
    found += ["no limit of latency (--slo)"] if not plan.record("slo").data else []
    return ", ".join(found)


def _tone(plan: Record, *, feasible: bool) -> Tone:
    """Good where the fleet keeps its limits; unsure where the interval of its headroom does not."""
    if not feasible:
        return "bad"
    ends = interval_of(plan, "headroom")
    return "unsure" if ends and ends[0] < 0 else "good"


def _subject(plan: Record) -> str:
    t = plan.record("traffic")
    hit = t.number("prefix_hit_rate")
    cached = f", {hit:.0%} of prompts from the prefix cache" if hit else ""
    return (
        f"{plan.text('model')} ({show(plan.number('parameters'))} parameters); "
        f"{t.number('mean_requests_per_s'):.3g} requests/s, planned for a peak of "
        f"{t.number('peak_requests_per_s'):.3g}; prompts of "
        f"{t.number('prompt_mean_tokens'):.0f} tokens (p95 {t.number('prompt_p95_tokens'):.0f})"
        f"{cached}, outputs of {t.number('output_mean_tokens'):.0f} "
        f"(p95 {t.number('output_p95_tokens'):.0f}); {t.text('source')}"
    )


def _facts(plan: Record) -> Iterator[Fact]:
    best = plan.record("best")
    yield Fact(
        name="GPUs" if plan.flag("feasible") else "nearest plan",
        value=f"{best.number('gpus'):.0f} x {best.text('gpu')}",
        note="; ".join(filter(None, (ends_words(plan, "gpus", "count"), shape_words(best)))),
    )
    rows: list[tuple[str, float | None, Unit]] = [
        ("cost_usd_per_hour", best.maybe("cost_usd_per_hour"), "usd"),
        ("usd_per_million_tokens", best.maybe("usd_per_million_tokens"), "usd"),
        *((key, latency_of(best, key), "seconds") for key in limits_of(plan)),
        ("tokens_per_s_per_gpu", best.maybe("tokens_per_s_per_gpu"), "count"),
    ]  # fmt: skip
    for key, value, unit in rows:
        yield Fact(name=spaced(key), value=show(value, unit), note=ends_words(plan, key, unit))
    ends = ends_words(plan, "headroom", "share")
    yield Fact(
        name="headroom",
        value=f"{best.number('headroom'):+.0%}",
        note="; ".join(filter(None, (ends, "requests/s it bears against the peak"))),
    )
    yield Fact(name="speculation", value=draft_words(best), note=_gain(plan, best))


def _gain(plan: Record, best: Record) -> str:
    if not best.number("gamma"):
        return ""
    parts = [
        f"{show(best.number('speedup'), 'ratio')} decode throughput",
        ends_words(plan, "speedup", "ratio"),
        f"{best.number('tokens_per_round'):.2f} tokens a round",
        ends_words(plan, "tokens_per_round", "count"),
    ]
    tree = best.maybe_record("tree")
    if tree is not None:
        chain = tokens_words(tree.number("chain_gamma"))
        parts.append(f"{show(tree.number('gain'), 'ratio')} its best chain ({chain})")
    return "; ".join(filter(None, parts))
