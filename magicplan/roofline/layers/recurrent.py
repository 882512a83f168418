"""Recurrent layers: a state of constant size a sequence, whatever the context.

A decoded token reads the state and writes it back. A verification of T tokens saves the state after
each, so that a rejected draft can be undone: one read and T writes, 1 + T states against 2. With 96
heads and a batch of 64 on H100, Kimi delta attention takes 2.4 to 2.6 decode times for T = 4, 4.3
to 4.8 for T = 8 (kernel tables of aiconfigurator, commit 095f58a). A prompt is scanned in chunks.
"""

from __future__ import annotations

from collections.abc import Iterator

from magicplan.model_specs.layers import Recurrent
from magicplan.roofline.deployment import Deployment, Namespace, Num
from magicplan.roofline.passes import Op, Pass

CHUNK_TOKENS = 64
"""Tokens that a scan's kernels take at once, with one state written between chunks (the default of
flash-linear-attention and of the Mamba-2 reference)."""


def ops(
    mixer: Recurrent, count: int, layout: Deployment, work: Pass, batch: Num, xp: Namespace
) -> Iterator[Op]:
    """One update of every state for every query token; heads are split over the ranks."""
    share = xp.maximum(1 / layout.tp, 1 / mixer.heads)
    tokens = work.query_tokens
    moved = 1 + (xp.maximum(tokens / CHUNK_TOKENS, 1.0) if work.prefill else tokens)
    rows = batch * tokens
    entering = sum(split.numbers for split in mixer.linear[0].wide) if mixer.linear else 0
    yield Op(
        name=mixer.kind,
        kind="attention",
        dtype="bf16" if work.prefill else "fp32",
        flops=rows * share * mixer.update_flops,
        kv_bytes=batch * share * mixer.state_bytes * moved,
        activation_bytes=rows * share * entering * layout.wide_bytes,
        units=batch * mixer.heads * share,
        count=count,
        layer=f"{mixer.kind}_prompt" if work.prefill else mixer.kind,
        reach_tokens=0.0,
    )


def state_bytes(mixer: Recurrent, layout: Deployment, xp: Namespace) -> Num:
    """One sequence's state and convolution window; past `heads` ranks each holds a whole head."""
    return mixer.state_bytes * xp.maximum(1.0, layout.tp / mixer.heads)
