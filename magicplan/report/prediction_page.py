"""Predictions as pages: one workload with its step and draft lengths, or maps over a grid."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from magicplan.report.charts import Bars, Chart, HeatMap, Numbers, Scale, Series, show
from magicplan.report.page import Block, Bullets, Fact, Grid, Page, Plot, Section
from magicplan.report.prediction import BOUND_WORDS, advised, spared
from magicplan.report.record import Record

PARTS = {
    "linear": "linear layers", "attention": "attention", "collective": "collectives",
    "elementwise": "element-wise", "host": "host",
}  # fmt: skip
"""What a decode step spends its time on, by the name in its JSON."""
CELLS = "The 80 % interval of a cell is in its hover box and in the table."
REST = "It rests on what the last section says."
EVENS = (
    ("kv_equals_weights_ctx_tokens", "KV bytes = weight bytes", "tokens"),
    ("memory_bound_ctx_tokens", "memory-bound from", "tokens"),
    ("compute_bound_batch", "linear layers compute-bound from a batch of", "count"),
    ("speedup_one_ctx_tokens", "speculation pays from", "tokens"),
)


def page(p: Record) -> Page:
    """A prediction's JSON; over a grid its fields are lists."""
    if isinstance(p.record("workload").data.get("batch"), list):
        return sweep_page((p,))
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


def sweep_page(predictions: tuple[Record, ...]) -> Page:
    """Maps over batch and context, a section a GPU."""
    first = predictions[0]
    model = first.record("model").text("name")
    names = [p.record("accelerator").text("name") for p in predictions]
    pairs = zip(names, predictions, strict=True)
    gains = [max((v or 0 for row in p.record("best").matrix("speedup") for v in row), default=0)
             for p in predictions]  # fmt: skip
    best = max(range(len(gains)), key=lambda i: gains[i])
    verdict = (
        f"Speculation brings up to {gains[best]:.2f}x, on {names[best]}."
        if gains[best] > 1
        else "Speculation pays nowhere on this grid."
    )
    return Page(
        title=f"{model} over batch and context",
        verdict=verdict,
        subject=", ".join(dict.fromkeys(names)),
        sections=(
            *(Section(title=name, blocks=tuple(_maps(p))) for name, p in pairs),
            rests_on(tuple(line for p in predictions for line in p.texts("assumptions"))),
        ),
    )


def _maps(p: Record) -> Iterator[Block]:
    draft = _draft(p)
    deployment = p.record("deployment")
    reading = (
        f"{draft}; stack {deployment.text('stack')}, calibration {deployment.text('calibration')}. "
        f"Blue gains, orange loses. {CELLS} {REST}"
    )
    yield Plot(title="Speedup of the best draft length", reading=reading, figure=speedup_map(p))
    reading = f"A plain decode step and what binds it. {CELLS} {REST}"
    yield Plot(title="A decode step", reading=reading, figure=step_map(p))


def _draft(p: Record) -> str:
    names = {n for row in p.record("best").data.get("draft", []) if isinstance(row, list)
             for n in row if isinstance(n, str) and n != "none"}  # fmt: skip
    return f"Draft: {', '.join(sorted(names))}" if names else "No draft"


def _axes(p: Record) -> tuple[Numbers, Numbers]:
    """Batches and contexts of a grid."""
    w = p.record("workload")
    batches, contexts = w.matrix("batch"), w.matrix("ctx_tokens")
    if not batches or not batches[0] or not contexts:
        w.fail("batch", "a grid of batch and context")
    return tuple(row[0] for row in batches), contexts[0]


def speedup_map(p: Record) -> HeatMap:
    """Speedup, draft length and interval over the grid, with the break-even lines."""
    batches, contexts = _axes(p)
    best = _Cells(p, "best")
    gammas = best.numbers("gamma")
    return HeatMap(
        x=Scale(title="context", unit="tokens"),
        y=Scale(title="batch"),
        value=Scale(title="speedup", unit="ratio"),
        columns=contexts,
        rows=batches,
        values=best.numbers("speedup"),
        texts=mapped(speedup_text, best.numbers("speedup"), gammas),
        details=mapped(_ends, best.numbers("speedup_low"), best.numbers("speedup_high"), gammas),
        middle=1.0,
        lines=tuple(_lines(p)),
    )


class _Cells:
    """Fields of a part of a prediction over its grid, checked to be [batch][ctx]."""

    def __init__(self, p: Record, part: str) -> None:
        batches, contexts = _axes(p)
        self.record, self.shape = p.record(part), [len(contexts)] * len(batches)

    def numbers(self, key: str) -> tuple[Numbers, ...]:
        return self._checked(key, self.record.matrix(key))

    def names(self, key: str) -> tuple[tuple[str, ...], ...]:
        rows = self.record.data.get(key)
        if not isinstance(rows, list) or not all(isinstance(row, list) for row in rows):
            self.record.fail(key, "a name for every batch and context")
        return self._checked(key, tuple(tuple(map(str, row)) for row in rows))

    def _checked(self, key: str, rows: tuple[tuple[Any, ...], ...]) -> tuple[tuple[Any, ...], ...]:
        if [len(row) for row in rows] != self.shape:
            self.record.fail(key, "an entry for every batch and context")
        return rows


def mapped(
    write: Callable[..., str], *grids: tuple[tuple[Any, ...], ...]
) -> tuple[tuple[str, ...], ...]:
    """A text for every cell, from that cell of every grid."""
    return tuple(
        tuple(write(*cell) for cell in zip(*rows, strict=True)) for rows in zip(*grids, strict=True)
    )


def speedup_text(speedup: float | None, gamma: float | None) -> str:
    """What a cell of a speedup map says."""
    if speedup is None:
        return "no fit"
    return f"{show(speedup, 'ratio')}\nγ {gamma:.0f}" if gamma else "off"


def _ends(low: float | None, high: float | None, gamma: float | None) -> str:
    return f"80 % {low:.2f}-{high:.2f}" if gamma and low is not None and high is not None else ""


def _lines(p: Record) -> Iterator[tuple[str, Numbers, Numbers]]:
    batches, contexts = _axes(p)
    even = p.record("break_even")
    for key, name in (
        ("speedup_one_ctx_tokens", "speculation pays from here"),
        ("kv_equals_weights_ctx_tokens", "KV bytes = weight bytes"),
    ):
        at = tuple(row[0] if row else None for row in even.matrix(key))
        if len(at) == len(batches) and any(at):
            yield name, at, batches
    bound = even.matrix("compute_bound_batch")
    if len(bound) == 1 and len(bound[0]) == len(contexts) and any(bound[0]):
        yield "linear layers compute-bound", contexts, bound[0]


def step_map(p: Record) -> HeatMap:
    """Seconds of a plain step, what binds it, and its interval."""
    batches, contexts = _axes(p)
    base = _Cells(p, "baseline")
    seconds = base.numbers("step_seconds")
    return HeatMap(
        x=Scale(title="context", unit="tokens"),
        y=Scale(title="batch"),
        value=Scale(title="a step", unit="seconds"),
        columns=contexts,
        rows=batches,
        values=seconds,
        texts=mapped(_step_text, seconds, base.names("bound")),
        details=mapped(_range, base.numbers("low_seconds"), base.numbers("high_seconds")),
    )


def _step_text(seconds: float | None, bound: str) -> str:
    return "no fit" if seconds is None else f"{show(seconds, 'seconds')}\n{bound}"


def _range(low: float | None, high: float | None) -> str:
    ends = (show(low, "seconds"), show(high, "seconds"))
    return "" if low is None or high is None else f"80 % {ends[0]}-{ends[1]}"
