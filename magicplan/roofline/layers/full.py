"""Attention over a cache of keys and values: whole, within a window, or over picked blocks."""

from __future__ import annotations

import math
from collections.abc import Iterator

from magicplan.model_specs.layers import Attention
from magicplan.roofline.deployment import BYTES_PER_KV_NUMBER, Deployment, Namespace, Num
from magicplan.roofline.layers import indexed
from magicplan.roofline.layers.scores import attend
from magicplan.roofline.passes import KvView, Op, Pass


def ops(
    mixer: Attention, count: int, layout: Deployment, work: Pass, batch: Num, xp: Namespace
) -> Iterator[Op]:
    """Scores and weighted values; past `kv_heads` ranks each reads a whole head."""
    q_heads = mixer.q_heads / layout.tp
    kv_heads = xp.maximum(mixer.kv_heads / layout.tp, 1.0)
    attended = _in_window(work.view.attended_tokens(work.ctx, xp), mixer.window_tokens, xp)
    kind, passes = "sliding" if mixer.window_tokens else "full", work.kv_passes
    if mixer.indexer:
        yield from indexed.scores(mixer.indexer, count, layout, work, batch)
        attended, passes = indexed.picked(mixer.indexer, attended, work, xp)
        kind = "blocks"
    yield attend(
        "attention_sliding" if mixer.window_tokens else "attention",
        layout,
        work,
        batch,
        attended,
        _in_window(work.ctx, mixer.window_tokens, xp),
        heads=q_heads,
        score_width=mixer.head_dim,
        value_width=mixer.values,
        kv_numbers=kv_heads * (mixer.head_dim + mixer.values),
        units=batch * kv_heads,
        count=count,
        sharing=q_heads / kv_heads,
        kind=kind,
        passes=passes,
        reach=mixer.indexer.selected_tokens if mixer.indexer else mixer.window_tokens or math.inf,
        appends=mixer.owns_cache,
        new=_new_in_window(work, attended, mixer.window_tokens, xp),
    )


def cache_bytes(
    mixer: Attention, layout: Deployment, tokens: Num, view: KvView, xp: Namespace
) -> Num:
    """Keys and values of the tokens kept, a whole head on every rank at least; a layer that reads
    another's cache holds none."""
    number = BYTES_PER_KV_NUMBER[view.kv_dtype or layout.kv_dtype]
    kept = _in_window(view.attended_tokens(tokens, xp), mixer.window_tokens, xp)
    copies = xp.maximum(layout.tp / mixer.kv_heads, 1.0)
    held = mixer.cached_numbers * number * copies * kept
    return held + indexed.key_bytes(mixer.indexer) * kept if mixer.indexer else held


def _new_in_window(work: Pass, attended: Num, window: int | None, xp: Namespace) -> Num:
    """New tokens that a query row meets on average: half of them, or what a window leaves beside
    the cached ones, which the last rows see the fewest of; itself in any case."""
    new = (work.query_tokens + 1) / 2
    return new if window is None else xp.minimum(new, xp.maximum(float(window) - attended, 1.0))


def _in_window(tokens: Num, window: int | None, xp: Namespace) -> Num:
    return tokens if window is None else xp.minimum(tokens, float(window))
