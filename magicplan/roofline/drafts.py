"""Drafts as data: what one draft step runs and reads, and what a replica must hold for it.

A new way to draft is one entry of `DRAFTS`: predict, drafts, trees and sweeps then know it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

from magicplan.errors import FieldError
from magicplan.model_specs.shape import ModelShape
from magicplan.roofline.memory import Resident
from magicplan.roofline.traffic import FULL, KvView

KvGrowth = Literal["constant", "growing", "none"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Projection:
    """A linear layer that a draft head adds to its transformer layers."""

    name: str
    wide: int
    deep: int
    quantised: bool = True


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Draft:
    """One way to draft. `method` names its acceptance data.

    A step runs `shape` (nothing, for a draft without a model) over `view` of its cache, and
    `projections` besides. `same_model` says that a view of the whole cache accepts everything.
    """

    name: str
    method: str
    shape: ModelShape | None
    view: KvView = FULL
    projections: tuple[Projection, ...] = ()
    weight_dtype: str | None = None
    holds_weights: bool = False
    holds_cache: bool = False
    same_model: bool = False
    first_pass_tokens: float = 1.0
    """Tokens a sequence of a round's first pass: one more than its cache may lack."""
    middle: Middle | None = None
    note: str = ""
    """What the draft's cost leaves out."""
    own_vocabulary: bool = False
    """Whether the head has another vocabulary than the target, so that its tokens are mapped."""
    round_seconds: float = 0.0
    """What a round of its released code takes beside its stages, where that was seen."""
    one_pass: bool = False
    """Whether one pass drafts all positions at once, however many (P-EAGLE, DFlash)."""
    sequential: tuple[Projection, ...] = ()
    """Small layers that a one-pass draft runs for one drafted token after another (DSpark)."""

    @property
    def kv_growth(self) -> KvGrowth:
        """How the KV cache that a step reads grows with context."""
        if self.shape is None or self.shape.layers == 0:
            return "none"
        return "constant" if self.view.budget_tokens is not None else "growing"

    @property
    def grows_trees(self) -> bool:
        """Whether the draft can grow several continuations: it has a model that runs once a token,
        and no level in between."""
        return self.shape is not None and self.middle is None and not self.one_pass

    @property
    def budget_tokens(self) -> float | None:
        """Tokens a step attends to, at most; `None` for all."""
        return self.view.budget_tokens

    @property
    def residents(self) -> tuple[Resident, ...]:
        """What a replica holds for this draft."""
        inner = self.middle.inner.residents if self.middle else ()
        if self.shape is None or not (self.holds_weights or self.holds_cache):
            return inner
        own = Resident(
            model=self.shape,
            holds_weights=self.holds_weights,
            holds_cache=self.holds_cache,
            view=self.view,
            weight_dtype=self.weight_dtype,
            extra_parameters=sum(p.wide * p.deep for p in self.projections),
        )
        return (own, *inner)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Middle:
    """A draft that is itself drafted for (TriForce, arXiv 2404.11912, section 4).

    `inner` drafts `gamma` tokens, of which the outer draft's pass accepts `tokens_per_pass` - 1.
    """

    inner: Draft
    gamma: int
    tokens_per_pass: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DraftRequest:
    """What a constructor may need: the target, the KV view and format asked for, a small model."""

    target: ModelShape
    view: KvView | None = None
    weight_dtype: str | None = None
    small: ModelShape | None = None
    inner_gamma: int = 2
    """Tokens that the smaller model of a two-level draft drafts for the level above it."""
    own_pool: bool = False
    """The stack keeps a separate KV pool for a self-draft (MagicDec)."""


def self_draft(ask: DraftRequest) -> Draft:
    """The target itself over a part of its KV cache, or with quantised weights, which read the
    whole cache unless a view is asked for (MagicDec, arXiv 2408.11049; QuantSpec, 2502.10424)."""
    view = ask.view or (FULL if ask.weight_dtype else STREAMING_512)
    copies = ask.own_pool or view.name.split(":")[0] in ("snapkv", "quant")
    method = view.name.split(":")[0]
    if ask.weight_dtype:
        method = "quant-weights"
    return Draft(
        name=f"self {view.name}" + (f" {ask.weight_dtype} weights" if ask.weight_dtype else ""),
        method={"quant": "quant-kv", "full": "streaming"}.get(method, method),
        shape=ask.target,
        view=view,
        weight_dtype=ask.weight_dtype,
        holds_weights=ask.weight_dtype is not None,
        holds_cache=copies and view.name != "full",
        same_model=ask.weight_dtype is None and view.kv_dtype is None,
    )


def model_draft(ask: DraftRequest) -> Draft:
    """A smaller model with its own cache, whole or windowed.

    The last token a round drafts never ran through it, so where that was accepted the next round
    starts with two tokens; a batch in step starts with two for all.
    """
    if ask.small is None:
        raise FieldError("draft", ": a draft model needs a name, such as llama-3.2-1b")
    view = ask.view or FULL
    return Draft(
        name=f"{ask.small.name} {view.name}",
        method="model",
        shape=ask.small,
        view=view,
        weight_dtype=ask.weight_dtype,
        holds_weights=True,
        holds_cache=True,
        first_pass_tokens=2.0,
    )


REDUCED_VOCABULARY = 32_000
"""Tokens that an EAGLE-3 head knows, as released for Llama 3.1."""


def eagle3_draft(ask: DraftRequest) -> Draft:
    """EAGLE-3 (arXiv 2503.01840): one layer of the target's width over embedding and features.

    Three fused feature layers enter (3h x h), queries, keys and values read 2h, and the head
    knows a reduced vocabulary of 32,000 tokens as in the released Llama-3.1 heads.
    """
    t = ask.target
    qkv = (t.q_heads + 2 * t.kv_heads) * t.head_dim
    return Draft(
        name="eagle3",
        method="eagle3",
        shape=_one_layer(t, name="eagle3 head", vocab=min(t.vocab, REDUCED_VOCABULARY)),
        view=ask.view or FULL,
        projections=(
            Projection(name="fuse_features", wide=t.hidden, deep=3 * t.hidden),
            Projection(name="embedding_half_of_qkv", wide=qkv, deep=t.hidden),
        ),
        holds_weights=True,
        holds_cache=True,
        own_vocabulary=t.vocab > REDUCED_VOCABULARY,
    )


def eagle_draft(ask: DraftRequest) -> Draft:
    """EAGLE (arXiv 2401.15077): one layer of the target's width over embedding and feature, merged
    by a 2h x h projection, with the target's own LM head."""
    t = ask.target
    return Draft(
        name="eagle",
        method="eagle",
        shape=_one_layer(t, name="eagle head", vocab=t.vocab),
        view=ask.view or FULL,
        projections=(Projection(name="merge", wide=t.hidden, deep=2 * t.hidden),),
        holds_weights=True,
        holds_cache=True,
    )


def mtp_draft(ask: DraftRequest) -> Draft:
    """Multi-token prediction (DeepSeek-V3, arXiv 2412.19437, 2.2): one more layer of the target,
    entered through a 2h x h projection, with the target's own LM head."""
    t = ask.target
    if not t.mtp_layers:
        raise FieldError(
            "draft",
            f"mtp: {t.name} has no multi-token-prediction layer; choose self, ngram, eagle3 or a "
            "smaller model",
        )
    experts = t.experts and replace(t.experts, layers=1)
    layer = replace(_one_layer(t, name="mtp layer", vocab=t.vocab), experts=experts, ffn=0)
    return Draft(
        name="mtp",
        method="mtp",
        shape=layer if experts else _one_layer(t, name="mtp layer", vocab=t.vocab),
        view=ask.view or FULL,
        projections=(Projection(name="merge", wide=t.hidden, deep=2 * t.hidden),),
        holds_weights=True,
        holds_cache=True,
    )


def medusa_draft(ask: DraftRequest) -> Draft:
    """Medusa (arXiv 2401.10774): one residual block and one LM head for each drafted position.

    They run at once on the target's last hidden state; gamma heads read gamma heads' weights.
    """
    t = ask.target
    return Draft(
        name="medusa",
        method="medusa",
        shape=replace(_one_layer(t, name="medusa head", vocab=t.vocab), layers=0),
        projections=(Projection(name="residual_block", wide=t.hidden, deep=t.hidden),),
        holds_weights=True,
    )


def peagle_draft(ask: DraftRequest) -> Draft:
    """P-EAGLE (arXiv 2602.01469): an EAGLE-3 head whose one pass over mask tokens drafts them all;
    four layers, as in the published head for gpt-oss-20b."""
    head = eagle3_draft(ask)
    assert head.shape is not None
    shape = replace(head.shape, name="peagle head", layers=4, norm_parameters=8 * ask.target.hidden)
    return replace(
        head, name="peagle", method="peagle", shape=shape, one_pass=True,
        note="peagle: rates of one head, gpt-oss-20b's, were published",
    )  # fmt: skip


def pard_draft(ask: DraftRequest) -> Draft:
    """PARD (AMD): a smaller model trained to draft all tokens in one pass over mask
    tokens."""
    if ask.small is None:
        raise FieldError("draft", "pard needs a smaller model, as in pard:llama-3.2-1b")
    return replace(
        model_draft(ask), name=f"pard {ask.small.name}", method="pard", one_pass=True,
        note="pard: P-EAGLE's rates stand in, none of its own are published by position",
    )  # fmt: skip


def dflash_draft(ask: DraftRequest) -> Draft:
    """DFlash (arXiv 2602.06036): a block of positions in one pass, through five layers (published
    heads have three to six) that attend to projected features of the target, with the target's own
    embedding and LM head."""
    t = ask.target
    return Draft(
        name="dflash",
        method="dflash",
        shape=replace(
            _one_layer(t, name="dflash head", vocab=t.vocab),
            layers=5,
            norm_parameters=10 * t.hidden,
        ),
        view=ask.view or FULL,
        projections=(Projection(name="fuse_features", wide=t.hidden, deep=5 * t.hidden),),
        holds_weights=True,
        holds_cache=True,
        one_pass=True,
        note="dflash: rates of few heads were published, most by one mean length; drafts are best "
        "as long as the block that a head was trained for",
    )


MARKOV_RANK = 256
"""Width of DSpark's Markov head, which its sources do not state: too narrow to matter."""


def dspark_draft(ask: DraftRequest) -> Draft:
    """DSpark: DFlash's pass, then for one token after another a low-rank Markov head, from the
    token before to what the block's logits gain."""
    t = ask.target
    return replace(
        dflash_draft(ask),
        name="dspark",
        method="dspark",
        sequential=(Projection(name="markov", wide=t.vocab, deep=MARKOV_RANK),),
        note="dspark: the width of its Markov head is taken as 256; rates of two targets were "
        "published by draft length",
    )


def suffix_draft(ask: DraftRequest) -> Draft:
    """Suffix decoding (Arctic): the continuation of an earlier occurrence in the text and in past
    outputs, from a tree on the host, as long as it is likely."""
    return Draft(
        name="suffix", method="suffix", shape=None,
        note="suffix: lengths drafted vary with the text; prompt look-up's rates stand in, as no "
        "others are published by position",
    )  # fmt: skip


def ngram_mod_draft(ask: DraftRequest) -> Draft:
    """n-gram look-up in a table that all requests share and that lasts (llama.cpp's ngram-mod)."""
    return replace(
        suffix_draft(ask), name="ngram-mod", method="ngram-mod",
        note="ngram-mod: prompt look-up's rates stand in, none of its own are by position",
    )  # fmt: skip


def ngram_draft(ask: DraftRequest) -> Draft:
    """Prompt look-up: the continuation of an earlier occurrence, found on the host for free."""
    return Draft(name="ngram", method="ngram", shape=None)


TRIFORCE_ROUND_SECONDS = 48.5e-3
"""The middle of 44 to 53 ms by which published rounds exceed the stages published beside them
(TriForce, COLM 2024, arXiv 2404.11912): sampling on the host, rebuilding the retrieval cache, and
one drafted token a middle pass."""


def triforce_draft(ask: DraftRequest) -> Draft:
    """TriForce (arXiv 2404.11912): a small model with a streaming cache drafts for the target
    with a retrieval cache, which drafts for the target with its whole cache.

    The small model drafts gamma1 tokens for each middle pass, the draft length is gamma2. Published
    best: gamma1 = 2, retrieval budget 4096, a 68M draft with a 256-token window; with .63 a token
    (its Table 1's range for Llama-68M) the middle pass then emits 2.03 tokens.
    """
    if ask.small is None:
        raise FieldError("draft", "triforce needs a small model, as in triforce:llama-68m")
    small = model_draft(DraftRequest(target=ask.target, small=ask.small, view=streaming(256)))
    alpha, gamma = 0.63, ask.inner_gamma
    tokens = sum(alpha**k for k in range(gamma + 1))
    # mean keys of chunks of 8 are read once a round, of which six middle passes have a share
    scan = 1 / 16 / 6
    view = ask.view or KvView(name="retrieval:4096", budget_tokens=4096, scan_fraction=scan)
    drafter = ask.small.name + (f" x{gamma}" if gamma != 2 else "")
    return Draft(
        name=f"triforce {drafter} -> {view.name}",
        method="triforce",
        shape=ask.target,
        view=view,
        holds_cache=True,
        same_model=True,
        middle=Middle(inner=small, gamma=gamma, tokens_per_pass=tokens),
        round_seconds=TRIFORCE_ROUND_SECONDS,
        note="triforce: its released code takes 44 to 53 ms a round beside its stages on an A100 "
        "(2.31x published where stages promise 3.5x), which is counted but under --stack ideal",
    )


def _one_layer(target: ModelShape, *, name: str, vocab: int) -> ModelShape:
    """A dense decoder layer of the target's widths with an LM head of its own."""
    ffn = target.ffn or (target.experts.ffn * target.experts.per_token if target.experts else 0)
    return replace(
        target,
        name=name,
        layers=1,
        ffn=ffn,
        vocab=vocab,
        tied_embeddings=True,
        experts=None,
        sliding_layers=0,
        window_tokens=None,
        listed=(),
        norm_parameters=2 * target.hidden,
        gathered_parameters=0,
        tower_parameters=0,
        published_parameters=None,
    )


def streaming(budget: float) -> KvView:
    """Sinks and a recent window, `budget` tokens in all (StreamingLLM, arXiv 2309.17453)."""
    return KvView(name=f"streaming:{budget:.0f}", budget_tokens=budget)


def snapkv(budget: float) -> KvView:
    """Tokens picked once after prefill by the last queries (SnapKV, arXiv 2404.14469)."""
    return KvView(name=f"snapkv:{budget:.0f}", budget_tokens=budget)


def quest(budget: float) -> KvView:
    """Pages picked at every step by their key bounds (Quest, arXiv 2406.10774): minimum and
    maximum key of every 16 tokens are read, 1/16 of the cache."""
    return KvView(name=f"topk:{budget:.0f}", budget_tokens=budget, scan_fraction=1 / 16)


def quantised(bits: float) -> KvView:
    """The whole cache in 4 or 8 bits (QuantSpec, arXiv 2502.10424; KIVI, arXiv 2402.02750)."""
    formats = {4: "int4", 8: "int8"}
    if bits not in formats:
        raise FieldError("draft_kv", f"quant:{bits:g}: expected quant:4 or quant:8")
    return KvView(name=f"quant:{bits:.0f}", kv_dtype=formats[int(bits)])


STREAMING_512 = streaming(512)
VIEWS: dict[str, Callable[[float], KvView]] = {
    "streaming": streaming,
    "snapkv": snapkv,
    "topk": quest,
    "quant": quantised,
}
BUDGETS = (256, 512, 1024, 2048, 4096)
"""KV tokens at which drafts that select them are compared."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Way:
    """An entry of the catalogue.

    `make` builds the draft; `small` names the model it drafts with unless another is given.
    `views` and `weight_dtypes` are the variants worth comparing, `head` says that it has to be
    trained for its target.
    """

    make: Callable[[DraftRequest], Draft]
    small: str = ""
    views: tuple[KvView | None, ...] = (None,)
    weight_dtypes: tuple[str, ...] = ()
    head: bool = False
    takes_small: bool = False
    """Whether this way drafts with whatever smaller model is named."""
    thin: bool = False
    """Whether so few rates were published that it is compared only where its target's were."""

    def variants(self, ask: DraftRequest) -> Iterator[DraftRequest]:
        """The questions whose drafts are compared: every view, and the whole cache under every
        narrow weight format."""
        for view in self.views:
            yield replace(ask, view=view)
        for dtype in self.weight_dtypes:
            yield replace(ask, view=FULL, weight_dtype=dtype)


SELECTED = tuple(kind(float(b)) for kind in (streaming, snapkv, quest) for b in BUDGETS)
DRAFTS: dict[str, Way] = {
    "self": Way(make=self_draft, views=(*SELECTED, quantised(4)), weight_dtypes=("int4",)),
    "eagle": Way(make=eagle_draft, head=True),
    "eagle3": Way(make=eagle3_draft, head=True),
    "mtp": Way(make=mtp_draft),
    "medusa": Way(make=medusa_draft, head=True),
    "peagle": Way(make=peagle_draft, head=True, thin=True),
    "pard": Way(make=pard_draft, head=True, takes_small=True, thin=True),
    "dflash": Way(make=dflash_draft, head=True, thin=True),
    "dspark": Way(make=dspark_draft, head=True, thin=True),
    "ngram": Way(make=ngram_draft),
    "ngram-mod": Way(make=ngram_mod_draft, thin=True),
    "suffix": Way(make=suffix_draft, thin=True),
    "triforce": Way(make=triforce_draft, small="llama-68m"),
}
"""The ways to draft by name; any other name is a smaller model (`model_draft`)."""
ENGINE_NAMES = {
    "eagle3.1": "eagle3", "eagle-3.1": "eagle3", "eagle-3": "eagle3", "eagle-2": "eagle",
    "nextn": "mtp", "deepseek_mtp": "mtp", "p-eagle": "peagle",
    "ngram_mod": "ngram-mod", "lookahead": "ngram", "prompt_lookup": "ngram",
    "domino": "dflash", "dflash2": "dflash",
}  # fmt: skip
"""What engines and sources call a way to draft, in lower case, where it is not our name."""
