"""Sparse attention by an indexer: score a small key of every cached token, attend to the best.

DeepSeek-V3.2 (arXiv 2512.02556, section 2.1). Every query token of a verification picks for itself,
so that T of them read between one choice and T choices: T is counted, the whole cache at most.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from magicplan.model_specs.layers import Indexer
from magicplan.roofline.deployment import Deployment, Namespace, Num
from magicplan.roofline.passes import Op, Pass


def scores(
    indexer: Indexer, count: int, layout: Deployment, work: Pass, batch: Num, ratio: float = 1.0
) -> Iterator[Op]:
    """Scores of all cached keys, one for `ratio` tokens, read once for all query tokens; every
    rank computes all of them."""
    if not indexer.selects:
        return
    rows, keys = batch * work.query_tokens, work.ctx / ratio
    new = (work.query_tokens + 1) / 2 / ratio
    yield Op(
        name="index_scores",
        kind="attention",
        dtype=indexer.scores_dtype,
        flops=2 * rows * indexer.heads * indexer.head_dim * (keys + new),
        kv_bytes=batch * key_bytes(indexer) * (keys + work.query_tokens / ratio),
        activation_bytes=rows * (indexer.heads * indexer.head_dim + 4 * (keys + new)),
        units=batch,
        count=count,
        layer="index",
        reach_tokens=math.inf,
    )


def picked(indexer: Indexer, attended: Num, work: Pass, xp: Namespace) -> tuple[Num, Num]:
    """Tokens that a query row attends to, and how often as many are read for all rows.

    `Pass.kv_passes`, where it is said, bounds the passes: 1 if all query tokens share a choice.
    """
    chosen = xp.minimum(attended, float(indexer.selected_tokens))
    passes = work.query_tokens if work.kv_passes is None else work.kv_passes
    return chosen, xp.minimum(passes, xp.maximum(attended, 1.0) / xp.maximum(chosen, 1.0))


def key_bytes(indexer: Indexer) -> float:
    """Bytes of one cached key; none where an earlier layer's choice is taken over."""
    return indexer.key_bytes if indexer.selects else 0.0
