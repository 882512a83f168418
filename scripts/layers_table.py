"""Writes docs/layers.md: what a model of every kind of layer holds, and what verifying costs it.

Usage: python scripts/layers_table.py. Bytes and FLOP alone, at the datasheet rates of one part, so
that nothing in the table is fitted.
"""

from __future__ import annotations

from pathlib import Path

from magicplan import hardware_specs, model_specs
from magicplan.hardware_specs.calibration import Calibration, Residual
from magicplan.model_specs.shape import ModelShape
from magicplan.roofline.deployment import Deployment
from magicplan.roofline.layers.costs import kind_of
from magicplan.roofline.memory import kv_sequence_bytes, state_sequence_bytes
from magicplan.roofline.timing import Machine, step_cost
from magicplan.roofline.traffic import FULL, Pass, attention, forward

OUT = Path(__file__).parents[1] / "docs" / "layers.md"
PART, BATCH, TOKENS, CONTEXTS = "b200", 8.0, 5.0, (4096.0, 32768.0, 131072.0)
MODELS = (
    "llama-3.1-8b", "gpt-oss-120b", "gemma-3-27b", "mimo-v2-flash", "gemma-3n-e4b",
    "gemma-4-26b-a4b", "deepseek-v3", "deepseek-v3.2", "glm-5.2", "deepseek-v4-flash",
    "minimax-m3", "qwen3-next-80b-a3b", "qwen3.5-27b", "kimi-linear-48b-a3b", "kimi-k3",
    "nemotron-3-nano-30b-a3b", "nemotron-3-super-120b-a12b", "nemotron-super-49b",
)  # fmt: skip
PUBLISHED = """\
What is published of this, and whether it agrees:

- **Kimi delta attention**, 96 heads, batch 64 on H100: a verification of 4 tokens takes 2.4 to 2.6
  decode times, of 8 4.3 to 4.8 (kernel tables of aiconfigurator, commit 095f58a). States moved, one
  read and one saved a token, say 2.5 and 4.5: it agrees.
- **Experts**: K = 1, 4, 8 drafted tokens are said to touch 1.3, 3.2, 6.1 times the experts of one
  token (vLLM RFC 46295, whose origin of the figures is unclear). {experts}
- **Latent attention with an indexer and experts**: GLM-5.2 verifies 2 tokens in 2.2 plain steps
  (jundot/omlx 2077, an Apple part). Bytes of a batch of 1 say {glm:.2f}: the engine there is far
  from them, and it does not agree.
- **Hybrid of Mamba-2 and experts**: Nemotron-H 30B-A3B verifies 2, 3, 5, 8 tokens in 1.59, 1.85,
  2.44 and 3.32 steps (waybarrios/vllm-mlx 763, an Apple part, batch 1). Bytes say {nemotron}:
  {verdict}.
- **Caches that are shared**: gemma-4-e4b verifies 2 and 6 tokens in 1.15 and 2.12 steps (rMLX 516,
  an Apple part, where arithmetic takes its share); bytes say about 1 for a dense model.
"""


def machine() -> Machine:
    """The part at its datasheet rates."""
    sure = Residual(low=1.0, high=1.0, basis="datasheet")
    ideal = Calibration(name="ideal", origin="", step_residual=sure, speedup_residual=sure)
    return Machine(accelerator=hardware_specs.load(PART), calibration=ideal)


def layout(model: ModelShape, on: Machine) -> Deployment:
    """One rank with the checkpoint's own formats."""
    peaks = frozenset(on.accelerator.dense_flops_per_s)
    return Deployment(formats=model.formats.on(peaks, on.accelerator.math_dtype))


def ratio(model: ModelShape, on: Machine, batch: float, ctx: float, tokens: float) -> float:
    """A verification of that many tokens over a decode step, at datasheet rates."""
    step, verify = (
        step_cost(
            forward(model, layout(model, on), Pass(batch=batch, ctx=ctx, query_tokens=t)), on
        ).seconds
        for t in (1.0, tokens)
    )
    return float(verify / step)


def mixing(model: ModelShape, ctx: float) -> float:
    """The same of cache and state bytes alone."""
    one, more = (
        sum(op.count * op.kv_bytes for op in attention(model, Deployment(), Pass(
            batch=BATCH, ctx=ctx, query_tokens=t)))
        for t in (1.0, TOKENS)
    )  # fmt: skip
    return float(more / one)


def row(model: ModelShape, on: Machine) -> str:
    """One line of the table."""
    kinds = ", ".join(f"{count} {kind_of(mixer)}" for count, mixer in model.mixers)
    state = state_sequence_bytes(model, Deployment())
    held = [kv_sequence_bytes(model, Deployment(), ctx, FULL) - state for ctx in CONTEXTS]
    late = (held[2] - held[1]) / (CONTEXTS[2] - CONTEXTS[1])
    cells = [
        f"{ratio(model, on, BATCH, ctx, TOKENS):.2f} ({mixing(model, ctx):.2f})" for ctx in CONTEXTS
    ]
    return (
        f"| {model.name} | {kinds} | {late:,.0f} | {held[1] / 1e6:,.0f} MB "
        f"| {state / 1e6:,.1f} MB | "
        f"{' | '.join(cells)} |"
    )


def experts_line() -> str:
    """What the routing model says of the published multiples."""
    from magicplan.roofline.traffic import touched_experts

    model = model_specs.load("qwen3-235b-a22b")
    assert model.experts is not None
    one = touched_experts(model.experts, 1.0)
    times = [float(touched_experts(model.experts, k + 1.0) / one) for k in (1.0, 4.0, 8.0)]
    said = ", ".join(f"{t:.1f}" for t in times)
    return (
        f"The routing of published\n  steps says {said} for 128 experts of which 8 are chosen: it "
        "does not agree well; tokens of one\n  sequence are more alike at first than is modelled."
    )


def main() -> None:
    """Write the page."""
    on = machine()
    nano, glm = (model_specs.load(n) for n in ("nemotron-3-nano-30b-a3b", "glm-5.2"))
    widths = [ratio(nano, on, 1.0, 512.0, t) for t in (2.0, 3.0, 5.0, 8.0)]
    measured = (1.59, 1.85, 2.44, 3.32)
    off = max(abs(w / m - 1) for w, m in zip(widths, measured, strict=True))
    verdict = "it agrees within a quarter" if off <= 0.25 else f"it is off by up to {off:.0%}"
    published = PUBLISHED.format(
        experts=experts_line(),
        glm=ratio(glm, on, 1.0, 4096.0, 2.0),
        nemotron=", ".join(f"{w:.2f}" for w in widths),
        verdict=verdict,
    )
    lines = [
        "# Kinds of layers: what they hold, and what verifying costs",
        "",
        "Written by `scripts/layers_table.py`, from bytes and FLOP at the datasheet rates of one "
        f"{on.accelerator.title} and a batch of {BATCH:.0f}; weights in the formats they are "
        "published in, caches in 16 bits, states in 32. The last columns are a verification of "
        f"{TOKENS:.0f} tokens over a decode step, of the whole step and, in brackets, of cache and "
        "state bytes alone.",
        "",
        "| model | layers | cache a token past 32k (bytes) | cache of 32k | state "
        "| 4k | 32k | 128k |",
        "|---|---|---|---|---|---|---|---|",
        *(row(model_specs.load(name), on) for name in MODELS),
        "",
        "How to read it: full and latent attention read a cache once for all query tokens of a "
        "verification, a window stops at its length, an indexer picks for every query token, and a "
        "recurrent layer moves one state more for every token. Whole steps rise for mixtures, "
        "since more tokens touch more experts.",
        "",
        "Not modelled: engines that page states and caches together pad a state to a page; "
        "prefix caching of states at block borders; a verification that replays a state instead of "
        "saving one after each token; fixed times of latent, indexed and block-sparse modules.",
        "",
        published,
    ]
    OUT.write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
