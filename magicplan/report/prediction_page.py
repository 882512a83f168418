"""A prediction as a page: one workload with its step, draft lengths, memory and break-evens."""

from __future__ import annotations

from collections.abc import Iterator

from magicplan.report.document.charts import PARTS, Bars, Chart, Scale, Series, show
from magicplan.report.document.page import Bullets, Fact, Grid, Page, Plot, Section
from magicplan.report.document.record import Record
from magicplan.report.prediction import BOUND_WORDS, advised, spared

REST = "It rests on what the last section says."


EVENS = (
    ("kv_equals_weights_ctx_tokens", "KV bytes = weight bytes", "tokens"),
    ("memory_bound_ctx_tokens", "memory-bound from", "tokens"),
    ("compute_bound_batch", "linear layers compute-bound from a batch of", "count"),
    ("speedup_one_ctx_tokens", "speculation pays from", "tokens"),
)


def page(p: Record) -> Page:
    """The JSON of `magicplan predict`."""
    bound = p.record("baseline").text("bound")
    if bound not in BOUND_WORDS:
        p.record("baseline").fail("bound", f"one of {', '.join(BOUND_WORDS)}")
    best = p.record("best")
    gain = best.number("gamma") > 0
    return Page(
        title=f"{p.record('model').text('name')} on {p.record('accelerator').text('name')}",
        verdict=_verdict(p, bound, best, gain),
        tone="good" if gain and best.number("speedup_low") >= 1 else "plain",
        subject=_subject(p),
        facts=tuple(_facts(p, best)),
        sections=(
            _step(p),
            *((_gammas(p),) if len(p.records("gammas")) > 1 else ()),
            _memory(p),
            _break_even(p),
            rests_on(p.texts("assumptions")),
        ),
    )


def rests_on(lines: tuple[str, ...]) -> Section:
    """Where every page ends: its assumptions, each once."""
    return Section(title="Rests on", blocks=(Bullets(lines=tuple(dict.fromkeys(lines))),))


def _verdict(p: Record, bound: str, best: Record, gain: bool) -> str:
    if not gain:
        rivals = p.records("gammas")[1:]
        return spared(bound, {int(r.number("gamma")): r.number("speedup") for r in rivals})
    ends = tuple(best.number(key) for key in ("speedup", "speedup_low", "speedup_high"))
    gamma, rate = int(best.number("gamma")), best.number("tokens_per_s")
    return advised(bound, best.text("draft"), gamma, ends, rate)  # type: ignore[arg-type]


def _subject(p: Record) -> str:
    d, w = p.record("deployment"), p.record("workload")
    return (
        f"{d.number('gpus'):.0f} x {p.record('accelerator').text('name')} "
        f"(TP{d.number('tp'):.0f} x {d.number('replicas'):.0f}), {d.text('dtype')}, KV "
        f"{d.text('kv_dtype')}, batch {w.number('batch'):.0f}, context "
        f"{show(w.number('ctx_tokens'), 'tokens')}, stack {d.text('stack')}, calibration "
        f"{d.text('calibration')}"
    )


def _facts(p: Record, best: Record) -> Iterator[Fact]:
    base, ideal = p.record("baseline"), p.record("ideal")
    yield Fact(
        name="decode step",
        value=show(base.number("step_seconds"), "seconds"),
        note=f"80 %: {show(base.maybe('low_seconds'), 'seconds')} to "
        f"{show(base.maybe('high_seconds'), 'seconds')}",
    )
    yield Fact(name="tokens/s", value=show(base.number("tokens_per_s")), note="without speculation")
    yield Fact(
        name="speedup",
        value=show(best.number("speedup"), "ratio"),
        note=f"80 %: {best.number('speedup_low'):.2f} to {best.number('speedup_high'):.2f}",
    )
    yield Fact(
        name="naive roofline",
        value=show(ideal.maybe("step_seconds"), "seconds"),
        note=f"a step; speedup {show(ideal.maybe('speedup'), 'ratio')}",
    )


def step_bars(p: Record) -> Bars:
    """The decode step by kind, with the interval of the whole."""
    base = p.record("baseline")
    return Bars(
        labels=("decode step",),
        value=Scale(title="seconds a step", unit="seconds"),
        parts=tuple((name, (base.number(f"{part}_seconds"),)) for part, name in PARTS.items()),
        low=(base.maybe("low_seconds"),),
        high=(base.maybe("high_seconds"),),
    )


def _step(p: Record) -> Section:
    plot = Plot(
        title="A decode step", reading=f"With its 80 % interval. {REST}", figure=step_bars(p)
    )
    return Section(title="Step", blocks=(plot,))


def gamma_chart(p: Record) -> Chart:
    """Speedup against draft length, with its interval."""
    rounds = p.records("gammas")
    line = Series(
        name="speedup",
        x=tuple(r.number("gamma") for r in rounds),
        y=tuple(r.maybe("speedup") for r in rounds),
        low=tuple(r.maybe("speedup_low") for r in rounds),
        high=tuple(r.maybe("speedup_high") for r in rounds),
        style="line",
    )
    return Chart(
        x=Scale(title="drafted tokens a round"),
        y=Scale(title="speedup", unit="ratio"),
        series=(line,),
        floors=((1.0, "break-even"),),
    )


def _gammas(p: Record) -> Section:
    best = p.record("best").number("gamma")
    rounds = p.records("gammas")
    rows = tuple(
        (
            f"{r.number('gamma'):.0f}",
            f"{r.number('tokens_per_round'):.2f}",
            *(show(r.maybe(f"{part}_seconds"), "seconds") for part in ("draft", "verify", "round")),
            show(r.maybe("tokens_per_s")),
            show(r.maybe("speedup"), "ratio"),
        )
        for r in rounds
    )
    grid = Grid(
        columns=("gamma", "tokens", "draft", "verify", "round", "tokens/s", "speedup"),
        rows=rows,
        best=frozenset(i for i, r in enumerate(rounds) if r.number("gamma") == best),
    )
    reading = f"The ribbon is the 80 % interval. {REST}"
    plot = Plot(
        title="Speedup by draft length", reading=reading, figure=gamma_chart(p), repeated=True
    )
    return Section(title="Draft lengths", blocks=(plot, grid))


def _memory(p: Record) -> Section:
    m = p.record("memory")
    parts = (("weights", "weights"), ("KV cache", "kv"), ("draft", "draft"))
    figure = Bars(
        labels=("a replica",),
        value=Scale(title="bytes", unit="bytes"),
        parts=tuple((name, (m.number(f"{key}_bytes"),)) for name, key in parts),
    )
    needed, there = m.number("needed_bytes_per_gpu"), m.number("available_bytes_per_gpu")
    note = (
        f"A GPU needs {show(needed, 'bytes')}, workspace included, of {show(there, 'bytes')}; the "
        f"largest batch at this context is {m.number('max_batch'):.0f}."
    )
    plot = Plot(
        title="What a replica holds", reading=f"From shapes and formats. {note}", figure=figure
    )
    return Section(title="Memory", blocks=(plot, note))


def _break_even(p: Record) -> Section:
    e = p.record("break_even")
    rows = [(name, show(e.maybe(key), unit)) for key, name, unit in EVENS]  # type: ignore[arg-type]
    rate = e.maybe("speedup_one_acceptance")
    rows.append(("acceptance to break even", "–" if rate is None else f"{rate:.3f}"))
    grid = Grid(columns=("break-even", "at"), rows=tuple(rows), note="–: nowhere, or everywhere.")
    return Section(title="Break-even", blocks=(grid,))
