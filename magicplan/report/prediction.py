"""The terminal report of one prediction: verdict, step, draft lengths, memory, break-evens."""

from __future__ import annotations

import math

from rich.console import Console
from rich.table import Table
from rich.text import Text

from magicplan.prediction.result import Prediction, Round
from magicplan.report.document.terminal import notes, table
from magicplan.units import human_bytes, human_count, human_seconds, human_tokens

BOUND_WORDS = {
    "weights": "memory-bound on weights",
    "kv": "memory-bound on the KV cache",
    "compute": "compute-bound",
    "overhead": "bound by launches and element-wise work",
    "communication": "bound by communication",
}


def render(prediction: Prediction, console: Console) -> None:
    """Print the whole answer, the verdict first."""
    console.print(Text(verdict(prediction), style="bold"))
    console.print(_subject(prediction))
    console.print(_step(prediction))
    if len(prediction.gammas) > 1:
        console.print(_gammas(prediction))
    console.print(_memory(prediction))
    console.print(_break_evens(prediction))
    notes(console, "Rests on", prediction.assumptions)


def verdict(p: Prediction) -> str:
    """One sentence: what binds the step, whether to speculate, what it brings."""
    rivals = {r.gamma: float(r.speedup) for r in p.gammas[1:]}
    best = p.best
    if best.gamma == 0:
        return spared(p.baseline.bound, rivals)
    ends = (best.speedup, best.speedup_low, best.speedup_high)
    return advised(p.baseline.bound, best.draft, best.gamma, ends, best.tokens_per_s)


def spared(bound: str, rivals: dict[int, float]) -> str:
    """The sentence where nothing pays; `rivals` maps draft lengths to speedups."""
    text = f"Decoding is {BOUND_WORDS[bound]}; do not speculate"
    if rivals:
        gamma = max(rivals, key=lambda g: rivals[g])
        text += f": the best draft length, {gamma}, gives {rivals[gamma]:.2f}x"
    return text + "."


def advised(
    bound: str, draft: str, gamma: int, ends: tuple[float, float, float], tokens_per_s: float
) -> str:
    """The sentence where a draft pays; `ends` are its speedup, low and high."""
    doubt = "; the interval holds a loss too, so measure first" if ends[1] < 1 else ""
    return (
        f"Decoding is {BOUND_WORDS[bound]}; speculate with {draft}, {gamma} drafted tokens: "
        f"{ends[0]:.2f}x ({ends[1]:.2f} to {ends[2]:.2f}), {human_count(tokens_per_s)} tokens/s"
        f"{doubt}."
    )


def _subject(p: Prediction) -> str:
    d, w = p.deployment, p.workload
    shape = f"TP{d.tp}"
    shape += f" PP{d.pp}" if d.pp > 1 else ""
    shape += f" x {d.replicas} replicas" if d.replicas > 1 else ""
    output = f" + {human_tokens(int(w.output_tokens))} output" if w.output_tokens else ""
    return (
        f"{p.model.name} ({human_count(p.model.parameters)} parameters) on {d.gpus} x "
        f"{p.accelerator.name} ({shape}), {d.dtype}, KV {d.kv_dtype}, batch {w.batch}, "
        f"context {human_tokens(w.ctx_tokens)} ({w.ctx_tokens} tokens){output}, "
        f"stack {d.stack}, calibration {d.calibration}"
    )


def _step(p: Prediction) -> Table:
    """The decode step by kind of work; bytes are one GPU's."""
    b = p.baseline
    grid = table("decode step", "time", "share", "reads", title="")
    rows = (
        ("linear layers", b.linear_seconds, human_bytes(b.weight_bytes)),
        ("attention", b.attention_seconds, human_bytes(b.kv_bytes)),
        ("collectives", b.collective_seconds, ""),
        ("element-wise", b.elementwise_seconds, ""),
        ("host", b.host_seconds, ""),
    )
    for name, seconds, moved in rows:
        grid.add_row(name, human_seconds(seconds), f"{seconds / b.step_seconds:.1%}", moved)
    grid.add_section()
    total = human_bytes(b.weight_bytes + b.kv_bytes + b.activation_bytes)
    grid.add_row("step", human_seconds(b.step_seconds), "100%", total, style="bold")
    grid.add_row(
        "80 % interval", f"{human_seconds(b.low_seconds)} -", human_seconds(b.high_seconds)
    )
    grid.add_row("throughput", human_count(b.tokens_per_s), "tokens/s", "")
    return grid


def _gammas(p: Prediction) -> Table:
    grid = table("gamma", "tokens", "draft", "verify", "round", "tokens/s", "speedup", "80 %")
    for entry in p.gammas[: _shown(p)]:
        best = entry.gamma == p.best.gamma
        grid.add_row(*_gamma_row(entry, best), style="bold green" if best else None)
    return grid


def _shown(p: Prediction) -> int:
    """Rows worth a screen: a few past the best; --json has them all."""
    return max(int(p.best.gamma) + 4, 6)


def _gamma_row(r: Round, best: bool) -> tuple[str, ...]:
    return (
        f"{r.gamma}{' *' if best else ''}",
        f"{r.tokens_per_round:.2f}",
        human_seconds(r.draft_seconds),
        human_seconds(r.verify_seconds),
        human_seconds(r.round_seconds),
        human_count(r.tokens_per_s),
        f"{r.speedup:.2f}x",
        f"{r.speedup_low:.2f}-{r.speedup_high:.2f}",
    )


def _memory(p: Prediction) -> Table:
    m = p.memory
    grid = table("memory", "bytes", "")
    grid.add_row("weights", human_bytes(m.weights_bytes), "a replica")
    grid.add_row("KV cache", human_bytes(m.kv_bytes), "a replica")
    grid.add_row("draft", human_bytes(m.draft_bytes), "a replica")
    grid.add_row("workspace", human_bytes(m.workspace_bytes), "a GPU")
    grid.add_section()
    share = m.needed_bytes_per_gpu / m.available_bytes_per_gpu
    grid.add_row("needed", human_bytes(m.needed_bytes_per_gpu), f"a GPU, {share:.0%} of available")
    grid.add_row("available", human_bytes(m.available_bytes_per_gpu), "a GPU")
    grid.add_row("largest batch", str(m.max_batch), "at this context")
    return grid


def _break_evens(p: Prediction) -> Table:
    e = p.break_even
    everywhere = "every context" if p.best.gamma else "no context"
    rows = [
        ("KV bytes = weight bytes", _tokens(e.kv_equals_weights_ctx_tokens), "at no context"),
        ("memory-bound from", _tokens(e.memory_bound_ctx_tokens), "every context"),
        ("linear layers compute-bound from", _known(e.compute_bound_batch, " sequences"), "never"),
    ]
    if len(p.gammas) > 1:
        rows += [
            ("speculation pays from", _tokens(e.speedup_one_ctx_tokens), everywhere),
            ("acceptance to break even", _rate(e.speedup_one_acceptance), "out of reach"),
        ]
    wanted = p.resolved.request.want_speedup
    if wanted:
        name = f"acceptance for {wanted:g}x"
        rows.append((name, _rate(e.wanted_speedup_acceptance), "out of reach"))
    grid = table("break-even", "at")
    for name, text, absent in rows:
        grid.add_row(name, text or absent)
    ideal = f"{human_seconds(p.ideal.step_seconds)} a step, {p.ideal.speedup:.2f}x"
    grid.add_row("naive roofline, for comparison", ideal)
    return grid


def _known(value: float, unit: str) -> str:
    """The value with its unit; empty where there is none."""
    return "" if math.isnan(value) else human_count(value) + unit


def _tokens(value: float) -> str:
    return _known(value, " tokens")


def _rate(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.3f}"
