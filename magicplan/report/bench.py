"""A simulated benchmark as a page: latencies and rates as `vllm bench serve` names them, what
stops the server, and its load over time."""

from __future__ import annotations

from collections.abc import Iterator

from magicplan.report.document.charts import Chart, Scale, Series
from magicplan.report.document.page import Bullets, Fact, Grid, Page, Plot, Section
from magicplan.report.document.record import Record
from magicplan.units import between, show

STATISTICS = ("mean", "median", "p95", "p99")
METRICS = {
    "ttft": "time to first token",
    "tpot": "time per output token",
    "itl": "time between chunks",
    "e2el": "whole request",
}
LINES = {
    "decoding": "requests decoding",
    "prompt_tokens_per_s": "prompt tokens/s",
    "kv_cache_share": "share of the KV cache",
}


def page(found: Record) -> Page:
    """The JSON of `magicplan bench`."""
    server, rate = found.record("server"), found.number("request_throughput")
    shape = f"{server.number('replicas'):.0f} of tp{server.number('tp'):.0f}"
    drafts = server.text("draft")
    return Page(
        title="A load generator's report, simulated",
        subject=f"{server.number('gpus'):.0f} x {server.text('accelerator')} ({shape}), "
        f"{server.text('model')}" + (f", {drafts}" if drafts != "none" else ""),
        verdict=_verdict(found, rate),
        facts=tuple(_facts(found)),
        sections=(
            Section(title="Latencies", blocks=(_latencies(found),)),
            Section(title="Load over time", blocks=tuple(_timeline(found.record("timeline")))),
            Section(title="Rests on", blocks=(Bullets(lines=tuple(found.texts("notes"))),)),
        ),
    )


def _verdict(found: Record, rate: float) -> str:
    good = found.maybe_record("goodput")
    if good is None:
        return (
            f"{rate:.3g} requests and {found.number('output_throughput'):.0f} output tokens a "
            f"second; TTFT p95 {show(found.number('p95_ttft_ms') / 1e3, 'seconds')}, TPOT p95 "
            f"{show(found.number('p95_tpot_ms') / 1e3, 'seconds')}."
        )
    most, stop = good.maybe("request_rate"), good.text("stopped_by")
    if most is None:
        return f"No load keeps the limits: an idle server breaks {stop}."
    lifts = good.record("lifts").data
    told = ", ".join(f"{name} {float(gain):.2f} times" for name, gain in lifts.items())
    return (
        f"Bears {most:.3g} requests a second, {good.number('concurrency'):.1f} in flight; stopped "
        f"by {stop}; lifted by {told or 'nothing that was loosened'}."
    )


def _facts(found: Record) -> Iterator[Fact]:
    yield Fact(
        name="requests/s",
        value=f"{found.number('request_throughput'):.3g}",
        note=_ends(found, "request_throughput", "80 %: {:.3g} to {:.3g}"),
    )
    yield Fact(
        name="output tokens/s",
        value=f"{found.number('output_throughput'):.0f}",
        note=_ends(found, "output_throughput", "80 %: {:.0f} to {:.0f}"),
    )
    yield Fact(
        name="decoding at once",
        value=f"{found.number('decoding_per_replica'):.1f}",
        note="on a replica, mean over time",
    )
    yield Fact(
        name="KV cache held",
        value=f"{found.number('kv_cache_share'):.0%}",
        note=f"{found.number('kv_cache_most_share'):.0%} at most; "
        f"{found.number('preemptions'):.0f} preemptions",
    )


def _latencies(found: Record) -> Grid:
    rows = []
    for metric, words in METRICS.items():
        values = [found.number(f"{s}_{metric}_ms") / 1e3 for s in STATISTICS]
        rows.append(
            (
                words,
                *(show(value, "seconds") for value in values),
                _between(found, f"p95_{metric}_ms"),
            )
        )
    return Grid(columns=("", *STATISTICS, "80 % of p95"), rows=tuple(rows))


def _between(found: Record, name: str) -> str:
    ends = found.record("intervals").maybe_record(name)
    return between(ends.number("low") / 1e3, ends.number("high") / 1e3, "seconds") if ends else ""


def _ends(found: Record, name: str, words: str) -> str:
    ends = found.record("intervals").maybe_record(name)
    return words.format(ends.number("low"), ends.number("high")) if ends else ""


def _timeline(lines: Record) -> Iterator[Plot]:
    seconds = lines.numbers("seconds")
    for name, words in LINES.items():
        yield Plot(
            title=words,
            reading=f"{words}, over the seconds of one run; the latencies above have intervals",
            figure=Chart(
                x=Scale(title="seconds"),
                y=Scale(title=words, unit="share" if name.endswith("share") else "count"),
                series=(Series(name=words, x=seconds, y=lines.numbers(name), style="line"),),
            ),
            quiet=True,
        )
