"""A prediction as a page: one workload with its step, draft lengths, memory and break-evens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from magicplan.report.document.charts import PARTS, Bars, Chart, Scale, Series
from magicplan.report.document.page import Brief, Fact, Grid, Page, Plot, Section
from magicplan.report.document.parts import rests_on, verdict_text, verdict_tone
from magicplan.report.document.record import Record
from magicplan.units import Unit, show

REST = "It rests on what the last section says."
READS = {"linear": "weight_bytes", "attention": "kv_bytes"}
"""Which bytes a part of the step reads."""
MARGIN = 4
"""Draft lengths past the best that a terminal shows."""


def page(p: Record) -> Page:
    """The JSON of `magicplan predict`."""
    best = p.record("best")
    return Page(
        title=f"{p.record('model').text('name')} on {p.record('accelerator').text('name')}",
        verdict=verdict_text(p),
        tone=verdict_tone(p),
        subject=_subject(p),
        facts=tuple(_facts(p, best)),
        sections=(
            _step(p),
            *((_gammas(p),) if len(p.records("gammas")) > 1 else ()),
            _memory(p),
            _break_even(p),
            rests_on(p.texts("assumptions")),
        ),
        brief=_brief(p, best),
    )


def _brief(p: Record, best: Record) -> Brief:
    """The numbers that carry the verdict, the draft lengths around the best, and in a line what
    they rest on."""
    rounds = p.records("gammas")
    at = best.number("gamma")
    near = [r for r in rounds if r.number("gamma") in (0, at - 2, at - 1, at, at + 1, at + 2)]
    spent = [r for r in near if len(rounds) > 1 and r.maybe("speedup") is not None]
    table = (_gamma_rows(p, spent),) if spent and best.maybe("size") is None else ()
    acceptance = next(
        (line for line in p.texts("assumptions") if line.startswith("acceptance: ")), ""
    )
    said = acceptance.removeprefix("acceptance: ").partition("; stretched")[0].partition(" (")[0]
    rests = f"calibration {p.record('deployment').text('calibration')}"
    return Brief(
        facts=(*_facts(p, best), _memory_fact(p)),
        blocks=table,
        rests_on=f"{rests}, and acceptance {said}" if said else rests,
    )


def _memory_fact(p: Record) -> Fact:
    m = p.record("memory")
    needed, there = m.number("needed_bytes_per_gpu"), m.positive("available_bytes_per_gpu")
    return Fact(
        name="memory",
        value=show(needed, "bytes"),
        note=f"a GPU, {needed / there:.0%} of what is available; batches up to "
        f"{m.number('max_batch'):.0f}",
    )


def _subject(p: Record) -> str:
    d, w, model = p.record("deployment"), p.record("workload"), p.record("model")
    shape = f"TP{d.number('tp'):.0f}"
    shape += f" PP{d.number('pp'):.0f}" if (d.maybe("pp") or 1) > 1 else ""
    shape += f" x {d.number('replicas'):.0f} replicas" if d.number("replicas") > 1 else ""
    tokens, output = w.number("ctx_tokens"), w.maybe("output_tokens")
    more = f" + {show(output, 'tokens')} output" if output else ""
    return (
        f"{model.text('name')} ({show(model.maybe('parameters'))} parameters) on "
        f"{d.number('gpus'):.0f} x {p.record('accelerator').text('name')} ({shape}), "
        f"{d.text('dtype')}, KV {d.text('kv_dtype')}, batch {w.number('batch'):.0f}, context "
        f"{show(tokens, 'tokens')} ({tokens:.0f} tokens){more}, stack {d.text('stack')}, "
        f"calibration {d.text('calibration')}"
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
    """The decode step by kind of work; bytes are those of one GPU."""
    base = p.record("baseline")
    plot = Plot(title="A decode step", reading=f"With its 80 % interval. {REST}",
                figure=step_bars(p), repeated=True)  # fmt: skip
    whole = base.positive("step_seconds")
    rows = [
        (
            name,
            show(base.number(f"{part}_seconds"), "seconds"),
            f"{base.number(f'{part}_seconds') / whole:.1%}",
            show(base.number(READS[part]), "bytes") if part in READS else "",
        )
        for part, name in PARTS.items()
    ]
    read = sum(base.number(f"{name}_bytes") for name in ("weight", "kv", "activation"))
    rows.append(("step", show(whole, "seconds"), "100%", show(read, "bytes")))
    grid = Grid(columns=("decode step", "time", "share", "reads"), rows=tuple(rows),
                best=frozenset({len(rows) - 1}), note="reads: bytes of one GPU.")  # fmt: skip
    return Section(title="Step", blocks=(plot, grid))


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
    reading = f"The ribbon is the 80 % interval. {REST}"
    plot = Plot(
        title="Speedup by draft length", reading=reading, figure=gamma_chart(p), repeated=True
    )
    return Section(title="Draft lengths", blocks=(plot, _gamma_rows(p, p.records("gammas"))))


def _gamma_rows(p: Record, rounds: Sequence[Record]) -> Grid:
    best = p.record("best").number("gamma")
    rows = tuple(
        (
            f"{r.number('gamma'):.0f}" + (" *" if r.number("gamma") == best else ""),
            f"{r.number('tokens_per_round'):.2f}",
            *(show(r.maybe(f"{part}_seconds"), "seconds") for part in ("draft", "verify", "round")),
            show(r.maybe("tokens_per_s")),
            show(r.maybe("speedup"), "ratio"),
            _ends(r.maybe("speedup_low"), r.maybe("speedup_high")),
        )
        for r in rounds
    )
    return Grid(
        columns=("gamma", "tokens", "draft", "verify", "round", "tokens/s", "speedup", "80 %"),
        rows=rows,
        best=frozenset(i for i, r in enumerate(rounds) if r.number("gamma") == best),
        first=max(int(best) + MARGIN, 6),
    )


def _ends(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"{low:.2f}-{high:.2f}"


def _memory(p: Record) -> Section:
    m = p.record("memory")
    parts = (("weights", "weights"), ("KV cache", "kv"), ("draft", "draft"))
    figure = Bars(
        labels=("a replica",),
        value=Scale(title="bytes", unit="bytes"),
        parts=tuple((name, (m.number(f"{key}_bytes"),)) for name, key in parts),
    )
    needed, there = m.number("needed_bytes_per_gpu"), m.positive("available_bytes_per_gpu")
    rows = (
        *((name, show(m.number(f"{key}_bytes"), "bytes"), "a replica") for name, key in parts),
        ("workspace", show(m.number("workspace_bytes"), "bytes"), "a GPU"),
        ("needed", show(needed, "bytes"), f"a GPU, {needed / there:.0%} of what is available"),
        ("available", show(there, "bytes"), "a GPU"),
        ("largest batch", f"{m.number('max_batch'):.0f}", "at this context"),
    )
    plot = Plot(title="What a replica holds", reading="From shapes and formats.", figure=figure,
                repeated=True)  # fmt: skip
    grid = Grid(columns=("memory", "", ""), rows=rows, prose=True)
    return Section(title="Memory", blocks=(plot, grid))


def _break_even(p: Record) -> Section:
    """A table of contexts and batches at which the answer changes; a change that the grid does not
    hold is said to be nowhere or everywhere."""
    e, wanted = p.record("break_even"), p.maybe("wanted_speedup")
    everywhere = "every context" if p.record("best").number("gamma") else "no context"
    known: list[tuple[str, str, Unit, str]] = [
        ("KV bytes = weight bytes", "kv_equals_weights_ctx_tokens", "count", "at no context"),
        ("memory-bound from", "memory_bound_ctx_tokens", "count", "every context"),
        ("linear layers compute-bound from", "compute_bound_batch", "count", "never"),
    ]
    if len(p.records("gammas")) > 1:
        known.append(("speculation pays from", "speedup_one_ctx_tokens", "count", everywhere))
    rows = [
        (name, absent if (value := e.maybe(key)) is None else f"{show(value, unit)} {_what(key)}")
        for name, key, unit, absent in known
    ]
    rates = [("acceptance to break even", "speedup_one_acceptance")] * (len(known) > 3)
    rates += [(f"acceptance for {wanted:g}x", "wanted_speedup_acceptance")] if wanted else []
    for name, key in rates:
        rate = e.maybe(key)
        rows.append((name, "out of reach" if rate is None else f"{rate:.3f}"))
    grid = Grid(columns=("break-even", "at"), rows=tuple(rows), prose=True)
    return Section(title="Break-even", blocks=(grid,))


def _what(key: str) -> str:
    return "sequences" if key.endswith("batch") else "tokens"
