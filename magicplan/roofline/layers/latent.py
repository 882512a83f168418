"""Latent attention in its absorbed form: all heads share one cached latent a token.

DeepSeek-V2 (arXiv 2405.04434, section 2.1.2). Query heads are split over the ranks, and every rank
reads the whole latent cache. Prompts run with keys and values written out, in narrower heads.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from magicplan.model_specs.layers import Latent
from magicplan.roofline.deployment import BYTES_PER_KV_NUMBER, Deployment, Namespace, Num
from magicplan.roofline.layers import indexed
from magicplan.roofline.layers.scores import attend
from magicplan.roofline.passes import KvView, Op, Pass


def ops(
    mixer: Latent, count: int, layout: Deployment, work: Pass, batch: Num, xp: Namespace
) -> Iterator[Op]:
    """Scores over the latent and the rotary part, weighted sums of the latent."""
    rank, kind, passes = mixer.ranks.kv_rank, "latent", work.kv_passes
    attended = work.view.attended_tokens(work.ctx, xp)
    if mixer.indexer:
        yield from indexed.scores(mixer.indexer, count, layout, work, batch)
        attended, passes = indexed.picked(mixer.indexer, attended, work, xp)
        kind = "indexed"
    yield attend(
        "attention",
        layout,
        work,
        batch,
        attended,
        work.ctx,
        heads=mixer.q_heads / layout.tp,
        score_width=mixer.cached_numbers,
        value_width=rank,
        kv_numbers=mixer.cached_numbers,
        units=batch,
        count=count,
        sharing=1.0,
        kind=kind,
        passes=passes,
        reach=mixer.indexer.selected_tokens if mixer.indexer else math.inf,
    )


def cache_bytes(mixer: Latent, layout: Deployment, tokens: Num, view: KvView, xp: Namespace) -> Num:
    """Latents, and an indexer's keys, of the tokens kept; every rank holds all."""
    number = BYTES_PER_KV_NUMBER[view.kv_dtype or layout.kv_dtype]
    token = mixer.cached_numbers * number
    if mixer.indexer:
        token = token + indexed.key_bytes(mixer.indexer)
    return token * layout.tp * view.attended_tokens(tokens, xp)
