"""DeepSeek-V4 attention: a window of whole tokens, and one entry for every `ratio` older ones.

transformers, models/deepseek_v4: with ratio 4 an indexer scores every entry and the best are read,
with ratio 128 all are. One head of keys serves as values too, so that an entry is read once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from magicplan.model_specs.layers import Compressed
from magicplan.roofline.deployment import BYTES_PER_KV_NUMBER, Deployment, Namespace, Num
from magicplan.roofline.layers import indexed
from magicplan.roofline.layers.scores import attend
from magicplan.roofline.passes import KvView, Op, Pass


def ops(
    mixer: Compressed, count: int, layout: Deployment, work: Pass, batch: Num, xp: Namespace
) -> Iterator[Op]:
    """Scores over the window and the entries that are read, and an indexer's choice among them."""

    def part(name: str, attended: Num, passes: Num | None, reach: float, appends: bool) -> Op:
        return attend(
            name,
            layout,
            work,
            batch,
            attended,
            attended,
            heads=mixer.q_heads / layout.tp,
            score_width=mixer.head_dim,
            value_width=mixer.head_dim,
            kv_numbers=mixer.head_dim,
            units=batch,
            count=count,
            sharing=1.0,
            kind="compressed",
            passes=passes,
            reach=reach,
            appends=appends,
        )

    window, passes = _window(mixer, work.ctx, xp), work.kv_passes
    yield part("attention_sliding", window, passes, mixer.window_tokens, appends=True)
    if not mixer.ratio:
        return
    entries, reach = work.view.attended_tokens(work.ctx, xp) / mixer.ratio, math.inf
    if mixer.indexer:
        yield from indexed.scores(mixer.indexer, count, layout, work, batch, mixer.ratio)
        entries, passes = indexed.picked(mixer.indexer, entries, work, xp)
        reach = float(mixer.indexer.selected_tokens * mixer.ratio)
    yield part("attention_compressed", entries, passes, reach, appends=False)


def cache_bytes(
    mixer: Compressed, layout: Deployment, tokens: Num, view: KvView, xp: Namespace
) -> Num:
    """The window, the entries and an indexer's keys; every rank holds all."""
    number = BYTES_PER_KV_NUMBER[view.kv_dtype or layout.kv_dtype]
    held = mixer.head_dim * number * _window(mixer, tokens, xp)
    if mixer.ratio:
        entry = mixer.head_dim * number
        if mixer.indexer:
            entry = entry + indexed.key_bytes(mixer.indexer)
        held = held + entry * view.attended_tokens(tokens, xp) / mixer.ratio
    return held * layout.tp


def _window(mixer: Compressed, tokens: Num, xp: Namespace) -> Num:
    return xp.minimum(tokens, float(mixer.window_tokens))
