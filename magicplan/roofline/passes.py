"""What a forward pass is asked and what it is made of: passes, views of a cache, ops."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from magicplan.roofline.deployment import Namespace, Num

Kind = Literal["linear", "attention", "collective", "elementwise"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Op:
    """One op on one GPU: what a single run of it moves and computes, and how often it runs.

    `units` of an attention op are its independent (sequence, KV head) pairs, those of a grouped op
    the experts it touches; a collective moves `payload_bytes` of each of the `ranks` GPUs that
    take part.
    """

    name: str
    kind: Kind
    dtype: str
    flops: Num = 0.0
    weight_bytes: Num = 0.0
    kv_bytes: Num = 0.0
    activation_bytes: Num = 0.0
    reread_bytes: Num = 0.0
    """Bytes of KV that a kernel which packs no query rows reads again, beside `kv_bytes`."""
    count: Num = 1.0
    grouped: bool = False
    """True for all products of a layer's experts, which other kernels run than a single product."""
    weight_format: str = ""
    """The format that a grouped op's weights are stored in; `dtype` is what it multiplies in."""
    idle_bytes: Num = 0.0
    """Bytes of a grouped op's activations for (token, expert) pairs that another rank works on."""
    prefill: bool = False
    """True for attention of prompts, which other kernels run than that of decoding."""
    scores: Num = 0.0
    """Number of an attention op's (query head, key) pairs, each with an exponential of its own."""
    layer: str = ""
    """The kind of layer that an attention op belongs to, which a calibration may know by itself:
    full, sliding, latent, indexed, index, compressed, blocks, or the kind of a recurrence, with
    "_prompt" behind where it scans one."""
    reach_tokens: float = math.inf
    """How far back a query row of an attention op sees; 0 where its cost is the token's alone."""
    units: Num = 0.0
    ranks: Num = 1.0
    payload_bytes: Num = 0.0
    pattern: Literal["all-reduce", "all-to-all"] = "all-reduce"

    @property
    def bytes(self) -> Num:
        """All bytes one run moves to or from memory."""
        return self.weight_bytes + self.kv_bytes + self.activation_bytes


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class KvView:
    """The part of a KV cache that a pass reads.

    `budget_tokens` caps the tokens attended, sinks included (StreamingLLM, arXiv 2309.17453;
    SnapKV, arXiv 2404.14469); `kv_dtype` is the cache's own format if it differs from the
    deployment's; `scan_fraction` of the whole cache is read to select tokens at every step.
    """

    name: str = "full"
    budget_tokens: float | None = None
    kv_dtype: str | None = None
    scan_fraction: float = 0.0

    def attended_tokens(self, ctx: Num, xp: Namespace = np) -> Num:
        """Tokens whose keys and values are read, of `ctx` in the cache."""
        return ctx if self.budget_tokens is None else xp.minimum(ctx, self.budget_tokens)


FULL = KvView()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pass:
    """One forward pass of one replica: what a round asks of a model.

    `batch` [sequences] and `ctx` [tokens in the cache] broadcast against `query_tokens`.
    `kv_passes` is how often the query tokens make the kernel read a sequence's KV: 1 where it packs
    them; None leaves it to the calibration (`AttentionFit.reread_share`).
    """

    batch: Num
    ctx: Num
    query_tokens: Num = 1.0
    view: KvView = FULL
    kv_passes: Num | None = None
    prefill: bool = False
    """Whether the tokens are a prompt's, or of a chunk of one: attention then runs the kernels of
    prefill, and a recurrent layer keeps its last state alone, where a verification saves one after
    every token, so that a rejected draft can be undone."""
