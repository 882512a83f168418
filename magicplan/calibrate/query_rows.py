"""How attention's time grows with query rows a KV head, the nearest proxy of verification.

No public table holds more than one query token a sequence. A kernel that packs the query heads of
a KV head into one tile packs the tokens of a verification as well; one that reads the cache for
each head reads it for each token. Pairs of rows that differ in query heads alone tell which.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from magicplan.calibrate.kernel_tables import Columns
from magicplan.roofline.deployment import Array

FEW = 4.0
"""Query rows a KV head that many are held against: those of a common model's decode step."""
LEAST_PAIRS = 5
SAME = ("batch", "kv_heads", "head_dim", "kv_len", "window")


@dataclass(frozen=True, slots=True, kw_only=True)
class RowRatio:
    """Time with `many` query rows a KV head over that with `few`, the median over pairs."""

    few: float
    many: float
    ratio: float
    pairs: int

    @property
    def reread_share(self) -> float:
        """Share of the KV read again for every further row, were all of the growth reading."""
        # ratio = (1 + s (many - 1)) / (1 + s (few - 1))
        growth = (self.many - 1) - self.ratio * (self.few - 1)
        return float(np.clip((self.ratio - 1) / growth, 0.0, 1.0)) if growth > 0 else 1.0


def row_ratio(rows: Columns) -> RowRatio | None:
    """The widest comparison that enough cold rows allow; None where none does."""
    sharing = rows["q_heads"] / rows["kv_heads"]
    keys = np.stack([rows[name].astype(np.float64) for name in SAME], axis=1).tolist()
    few = {tuple(key): at for at, key in enumerate(keys) if sharing[at] == FEW}
    for many in sorted(np.unique(sharing[sharing > FEW]), reverse=True):
        at = [i for i in np.flatnonzero(sharing == many) if tuple(keys[i]) in few]
        if len(at) >= LEAST_PAIRS:
            base = rows["seconds"][[few[tuple(keys[i])] for i in at]]
            ratio: Array = rows["seconds"][at] / base
            return RowRatio(few=FEW, many=float(many), ratio=float(np.median(ratio)), pairs=len(at))
    return None
