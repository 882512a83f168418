"""Scores over cached tokens and the weighted sum of their values: what every attention does."""

from __future__ import annotations

import math

from magicplan.roofline.deployment import BYTES_PER_KV_NUMBER, Deployment, Num
from magicplan.roofline.passes import Op, Pass


def attend(
    name: str,
    layout: Deployment,
    work: Pass,
    batch: Num,
    attended: Num,
    cached: Num,
    *,
    heads: Num,
    score_width: Num,
    value_width: Num,
    kv_numbers: Num,
    units: Num,
    count: Num,
    sharing: Num,
    kind: str = "full",
    passes: Num | None = None,
    reach: float = math.inf,
    appends: bool = True,
    new: Num = None,
) -> Op:
    """Scores and weighted values over `attended` cached tokens and, causally, the new ones.

    KV is read `passes` times (once if None) and appended once; each of T query rows meets
    (T + 1) / 2 new tokens on average, which are still in registers or L2 and cost no traffic of
    their own; `new` says how many where a window leaves fewer. `sharing` query heads share a KV
    head; a query row sees `reach` tokens at most.
    """
    rows = batch * work.query_tokens
    kv_dtype = work.view.kv_dtype or layout.kv_dtype
    token_bytes = kv_numbers * BYTES_PER_KV_NUMBER[kv_dtype]
    times, tokens = (1.0, work.query_tokens) if passes is None else (passes, 1.0)
    read = attended * times + cached * work.view.scan_fraction
    new = (work.query_tokens + 1) / 2 if new is None else new
    return Op(
        name=name,
        kind="attention",
        dtype=kv_dtype,
        flops=2 * rows * heads * (score_width + value_width) * (attended + new),
        kv_bytes=batch * token_bytes * (read + work.query_tokens * int(appends)),
        activation_bytes=rows * heads * (score_width + value_width) * layout.wide_bytes,
        reread_bytes=batch * token_bytes * attended * times * (sharing * tokens - 1),
        prefill=work.prefill,
        scores=rows * heads * (attended + new),
        units=units,
        count=count,
        layer=kind,
        reach_tokens=reach,
    )
