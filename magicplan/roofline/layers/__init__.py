"""What the context costs in a layer, one file a kind of mixer.

Each kind answers the same three questions: the ops of a pass that its context decides, the bytes
that one more cached token takes, and the bytes that a sequence of so many tokens holds.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from magicplan.model_specs.layers import Attention, Compressed, Latent, Mixer
from magicplan.roofline.deployment import Deployment, Namespace, Num
from magicplan.roofline.layers import compressed, full, latent, recurrent
from magicplan.roofline.passes import FULL, KvView, Op, Pass


def context_ops(
    mixer: Mixer, count: int, layout: Deployment, work: Pass, batch: Num, xp: Namespace = np
) -> Iterator[Op]:
    """The ops of `count` layers with that mixer whose cost the context decides.

    `batch` are the sequences of one data-parallel group. Of plain attention and its relatives they
    are the scores over a cache; of a recurrence the update of its state.
    """
    if isinstance(mixer, Attention):
        return full.ops(mixer, count, layout, work, batch, xp)
    if isinstance(mixer, Latent):
        return latent.ops(mixer, count, layout, work, batch, xp)
    if isinstance(mixer, Compressed):
        return compressed.ops(mixer, count, layout, work, batch, xp)
    return recurrent.ops(mixer, count, layout, work, batch, xp)


def cache_bytes(
    mixer: Mixer, layout: Deployment, tokens: Num, view: KvView = FULL, xp: Namespace = np
) -> Num:
    """Bytes of cache that one sequence of `tokens` holds in one such layer, over all ranks of an
    attention group; a state, which no token adds to, is `state_bytes`."""
    if isinstance(mixer, Attention):
        return full.cache_bytes(mixer, layout, tokens, view, xp)
    if isinstance(mixer, Latent):
        return latent.cache_bytes(mixer, layout, tokens, view, xp)
    if isinstance(mixer, Compressed):
        return compressed.cache_bytes(mixer, layout, tokens, view, xp)
    return 0.0


def state_bytes(mixer: Mixer, layout: Deployment, xp: Namespace = np) -> Num:
    """Bytes of state that one sequence holds in one such layer whatever its length, over all ranks
    of an attention group."""
    if isinstance(mixer, Attention | Latent | Compressed):
        return 0.0
    return recurrent.state_bytes(mixer, layout, xp)
