"""What a plan chose: what to launch, what it does to latency, and why the others lose."""

from __future__ import annotations

from collections.abc import Iterator

from magicplan.planning.words import METRICS, STATISTICS, spoken
from magicplan.report.capacity import figures, fleet
from magicplan.report.capacity.words import (
    draft_words,
    ends_of,
    limit_name,
    limits_spoken,
    range_sentence,
    seconds_of,
    shape_words,
    spaced,
    unit_called,
    unit_of,
)
from magicplan.report.document.page import Block, Bullets, Code, Grid, Plot, Section
from magicplan.report.document.record import Record
from magicplan.units import between, show

FIRST, LISTED = 6, 16
"""Candidates in the table of the page: the first, and at most; the JSON has all."""
SPENT = {
    "weights": "reading weights",
    "kv": "reading the KV cache",
    "compute": "arithmetic",
    "overhead": "launches and element-wise work",
    "communication": "communication",
}


def launch(plan: Record) -> Section:
    """What to rent, and the commands to paste."""
    feasible = plan.flag("feasible")
    blocks: list[Block] = [] if feasible else [_broken(plan)]
    blocks.append(Grid(columns=("", ""), rows=_serves(plan), prose=True))
    blocks += fleet.commands(plan.records("launch"))
    return Section(title="Buy and launch" if feasible else "Nearest plan", blocks=tuple(blocks))


def mix(plan: Record) -> Section:
    """The kinds of replicas to rent together, and the commands to paste."""
    return Section(title="Buy and launch", blocks=fleet.parts(plan.record("mixed")))


def one_kind(plan: Record) -> Section:
    """The best of one kind beside a mix: what all that follows describes."""
    reading = "All that follows describes the best of one kind and its rivals, for comparison."
    blocks: list[Block] = [reading]
    if plan.record("best").record("violations").data:
        blocks.append(_broken(plan))
    blocks.append(Grid(columns=("", ""), rows=(*_fleet(plan), *_serves(plan)), prose=True))
    return Section(title="One kind alone", blocks=tuple(blocks))


def _fleet(plan: Record) -> tuple[tuple[str, str], ...]:
    """What the first numbers of a page say where one kind of replica is the answer."""
    best = plan.record("best")
    return (
        ("GPUs", f"{best.number('gpus'):.0f} x {best.text('gpu')}" + _sure(plan, "gpus")),
        ("layout", shape_words(best)),
        ("speculation", draft_words(best)),
    )


def _serves(plan: Record) -> tuple[tuple[str, str], ...]:
    best = plan.record("best")
    headroom, joules = best.number("headroom"), best.maybe("energy_joules_per_token")
    kept = "" if best.record("violations").data else " within the limits"
    side = "over" if headroom >= 0 else "below"
    return (
        ("requests at once", f"{best.number('batch_per_replica'):.3g}"
         f"{_sure(plan, 'batch_per_replica')} decode on a replica, of at most "
         f"{best.number('max_batch_per_replica'):.0f}, mean context "
         f"{best.number('ctx_tokens'):.0f} tokens"),
        ("serves", f"{best.number('capacity_requests_per_s'):.3g} requests/s"
         f"{_sure(plan, 'capacity_requests_per_s')}{kept}, {abs(headroom):.0%} {side} the peak; "
         f"utilisation {best.number('utilisation'):.0%}{_sure(plan, 'utilisation')}"),
        ("what stops it", f"{limit_name(best.text('binding'))}; a decode step spends most on "
         f"{SPENT.get(best.text('bound'), best.text('bound'))}"),
        ("energy", "not known, for want of a TDP" if joules is None else
         f"at most {joules:.3g} J a token{_sure(plan, 'energy_joules_per_token')}"),
        ("stack", f"{best.text('stack')}, calibration {best.text('calibration')}"),
    )  # fmt: skip


def _sure(plan: Record, figure: str) -> str:
    """The interval behind a number, in brackets."""
    ends = ends_of(plan, figure, unit_of(figure))
    return f" (80 %: {ends})" if ends else ""


def _broken(plan: Record) -> Grid:
    """Limits that the nearest plan breaks."""
    best = plan.record("best")
    rows = tuple(
        (limit_name(key), f"{factor:.3g} times the limit" if factor else "without end")
        for key, factor in best.record("violations").items()
    )
    note = f"What binds: {limit_name(best.text('binding'))}."
    return Grid(columns=("limit", "predicted"), rows=rows, prose=True, note=note)


def observed(plan: Record) -> Section | None:
    seen = plan.maybe_record("observed")
    if seen is None:
        return None
    rows = tuple(
        (
            spaced(f.text("figure")),
            show(f.maybe("observed"), unit := unit_called(f.text("unit"))),
            show(f.maybe("predicted"), unit),
            f"{f.number('error'):+.1%}",
            show(f.maybe("refitted"), unit),
        )
        for f in seen.records("figures")
    )
    reading = (
        f"{seen.text('file')}, {seen.text('tool')}, {seen.number('concurrency'):.3g} requests at "
        "once." + (f" Predicted for {seen.text('server')}." if seen.text("server", "") else "")
    )
    blocks: list[Block] = [
        reading,
        Grid(columns=("figure", "observed", "predicted", "error", "refitted"), rows=rows),
        Plot(
            title="Error of the prediction, before and after the fit",
            reading="Predicted over observed, minus 1. One run, so no interval; errors after the "
            "fit are on the figures that it was fitted to.",
            figure=figures.observed_errors(seen),
            repeated=True,
        ),
        Bullets(lines=seen.texts("advice")),
        Code(title="Calibration fitted to this run and GPU, for --stack FILE",
             text=seen.text("calibration_toml"), quiet=True),
    ]  # fmt: skip
    return Section(title="Running server", blocks=tuple(blocks))


def limits(plan: Record) -> Section | None:
    """What is broken, or kept only if the prediction is right, and what to do about it."""
    lines = tuple(map(limits_spoken, plan.texts("advice")))
    return Section(title="Limits", blocks=(Bullets(lines=lines),)) if lines else None


def latency(plan: Record) -> Section:
    """Every latency with its interval, and its limit where it has one."""
    best, slo = plan.record("best"), plan.record("slo")
    rows = tuple(
        (
            f"{metric.upper()} {statistic}",
            show(seconds_of(best, metric, statistic), "seconds")
            + (f" / {show(limit, 'seconds')}" if (limit := slo.maybe(key)) else ""),
            ends_of(plan, key, "seconds"),
        )
        for metric in METRICS
        for statistic in STATISTICS
        for key in (f"{metric}_{statistic}_seconds",)
    )
    names = "; ".join(f"{metric.upper()}: {words}" for metric, words in METRICS.items())
    note = (
        f"At the peak; the figure behind a slash is the limit. {names}. Gaps between tokens have a "
        f"standard deviation of {best.record('latency').number('itl_cv'):.2f} means."
    )
    if seconds_of(best, "itl", "p50") == 0:
        note += " An ITL of 0: a round's tokens arrive together."
    grid = Grid(columns=("latency", "predicted", "80 %"), rows=rows, note=note)
    return Section(title="Latency", blocks=(grid,))


def candidates(plan: Record) -> Section:
    listed = plan.records("candidates")
    shown = _shown(listed)
    best = plan.record("best").text("name")
    columns = ("candidate, and why not", "$/h", "$/M", "TTFT p95", "TPOT p95", "room", "meets")
    grid = Grid(
        columns=columns,
        rows=tuple(_candidate(c) for c in shown),
        best=frozenset(i for i, c in enumerate(shown) if c.text("name") == best),
        note=_looked_at(plan, len(shown), len(listed)),
    )
    blocks: tuple[Block, ...] = (grid,)
    rejected = [(name, count) for name, count in plan.record("rejected").items() if count]
    if rejected:
        blocks += ("Never became candidates:", Bullets(lines=tuple(
            f"{count:.0f}: {reason}" for reason, count in rejected
        )))  # fmt: skip
    return Section(title="Candidates", blocks=blocks)


def _shown(listed: tuple[Record, ...]) -> list[Record]:
    """The first few, then the first of every GPU, draft and layout, in their order."""
    kept: list[Record] = []
    seen: set[tuple[str, str]] = set()
    for number, c in enumerate(listed):
        keys = {(key, c.text(key)) for key in ("gpu", "draft", "layout")}
        if number < FIRST or (keys - seen and len(kept) < LISTED):
            kept.append(c)
        seen |= keys
    return kept


def _candidate(c: Record) -> tuple[str, ...]:
    why = c.text("why_not", "")
    return (
        f"{c.text('name')}; {spoken(why)}" if why else c.text("name"),
        show(c.maybe("cost_usd_per_hour"), "usd"),
        show(c.maybe("usd_per_million_tokens"), "usd"),
        show(seconds_of(c, "ttft", "p95"), "seconds"),
        show(seconds_of(c, "tpot", "p95"), "seconds"),
        f"{c.number('headroom'):+.0%}",
        "yes" if c.flag("meets") else "no",
    )


def _looked_at(plan: Record, shown: int, count: int) -> str:
    s = plan.record("searched")
    more = f"{shown} of {count}; the JSON has all. " if count > shown else ""
    return (
        f"{more}Looked at: {s.number('configurations'):,.0f} configurations, "
        f"{s.number('cells'):,.0f} cells of batch and draft length. room: capacity over the peak; "
        "$/M: a million output tokens at mean traffic."
    )


def pareto(plan: Record) -> Section:
    listed = plan.records("candidates")
    fronts = ("pareto_cost_latency", "pareto_throughput_latency")
    on = [{int(i) for i in plan.numbers(key) if i is not None} for key in fronts]
    rows = tuple(
        (
            c.text("name"),
            show(c.maybe("usd_per_million_tokens"), "usd"),
            show(c.maybe("tokens_per_s_per_gpu")),
            show(seconds_of(c, "tpot", "p95"), "seconds"),
            _ends(c, "tpot_p95_seconds"),
            "both" if all(i in front for front in on) else "cost" if i in on[0] else "rate",
        )
        for i, c in enumerate(listed)
        if any(i in front for front in on)
    )
    grid = Grid(
        columns=("nothing beats", "$/M", "tok/s/GPU", "TPOT p95", "80 %", "in"),
        rows=rows,
        note="in: the trade-off against TPOT p95 in which nothing beats it, cost or rate (tokens/s "
        "a GPU). 80 %: of TPOT p95, from the step time alone; fleet, cost and traffic are held.",
    )
    return Section(title="Pareto", blocks=(*_pareto_plots(plan), grid))


def _ends(c: Record, key: str) -> str:
    """A candidate's own interval."""
    ends = c.maybe_record("ends")
    if ends is None or not ends.data.get(key):
        return ""
    low, *high = ends.numbers(key)
    return between(low, high[0] if high else None, "seconds")


def _pareto_plots(plan: Record) -> Iterator[Plot]:
    """Both trade-offs; one that no candidate can be placed in, for want of prices, is left out."""
    for against, side, better in (("cost", "left", "cheaper"), ("throughput", "right", "more")):
        chart = figures.pareto(plan, against=against)
        if chart.series:
            yield Plot(
                title=f"Pareto front: {against} against latency",
                reading=f"Further down is faster, further {side} is {better}; the star is the "
                "choice. Bars on the front: 80 % intervals from the step time, the fleet and its "
                "cost held; the star's holds acceptance too; other points say theirs. "
                + range_sentence(plan, "tpot_p95_seconds", "TPOT p95 of the star"),
                figure=chart,
                repeated=True,
            )
