"""What a machine was seen to do: few fitted constants an op kind, kept apart from its datasheet.

The forms are those of `roofline.timing`. An efficiency lies in (0, 1] and a constant is never
negative, so that no calibration can predict a time below the datasheet's roofline.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeVar

import numpy as np

from magicplan.errors import SpecError

ROOF_SHARPNESS = 2.0
"""The exponent by which fitted attention combines reading with multiplying. Infinite would mean
that a kernel does both at once, 1 one after the other, so that every query token of a verification
adds its share. At 2, 64 query rows a KV head take 5 (H100) to 14 % (A100) longer than four; the
kernel tables' nearest proxy of verification, query heads a KV head from 4 to 64, bears that out
(A100 +14 %, H100 +5 %, L40S +3 % at 32). Fitted freely, it follows what else differs between few
and many KV heads."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LinearFit:
    """t = launch + p-norm(bytes / (memory_efficiency BW), flops / (compute_efficiency F)).

    The launch of 8- and 4-bit products leaves the quantisation of activations out: engines fuse it
    into the norm or activation before.
    """

    launch_seconds: float = 0.0
    memory_efficiency: float = 1.0
    compute_efficiency: float = 1.0
    sharpness: float = math.inf
    """The p of the norm; infinite is the plain maximum."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ExpertFit:
    """t = launch + expert n + p-norm(moving, flops / (compute_efficiency F)).

    It is the time of all products of one layer's experts on one rank, which touches n of them;
    moving is weights / (memory_efficiency BW) + passes activations / BW.

    Launch holds the sorting of tokens by expert, both products' kernels and the weighted sum of
    what comes back. Every kernel between them passes over the activations; those that multiply
    for all (token, expert) pairs of a group of ranks also write the pairs of other ranks, as zeros.
    """

    launch_seconds: float = 0.0
    expert_seconds: float = 0.0
    """Seconds added for each touched expert: its first and last tiles, which others do not fill."""
    memory_efficiency: float = 1.0
    """Share of the datasheet's bandwidth at which the weights are read; activations have a constant
    of their own."""
    compute_efficiency: float = 1.0
    sharpness: float = math.inf
    """The p of the norm: 1 in every table seen, where a kernel waits for its weights and then
    multiplies."""
    activation_passes: float = 1.0
    """Datasheet times that the activations take, each product's input and output counted once:
    1 is the ideal, more where kernels are not fused or narrow products multiply slowly."""
    idle_share: float = 0.0
    """Share of the (token, expert) pairs of other ranks that the kernel passes over: 0 or 1."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PrefillFit:
    """t = launch + p-norm(bytes / (memory_efficiency BW), work / (compute_efficiency F)).

    It is the time of causal attention of a prompt, or of a chunk of one; its work are the FLOP of
    the products and score_flops for each (query, key) pair of a head.

    Short prompts last as long as the launch, long ones as their products; exponentials take the
    longer, beside them, the narrower a head is.
    """

    launch_seconds: float = 0.0
    memory_efficiency: float = 1.0
    compute_efficiency: float = 1.0
    sharpness: float = math.inf
    """The p of the norm: 1 in the tables, as queries, keys and values come before products."""
    score_flops: float = 0.0
    """What the softmax of one score takes, in FLOP of the products."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AttentionFit:
    """t = launch + p-norm(wave (batch kv_heads / SMs), q-norm(bytes / (eb BW), flops / (ef F))).

    Attention over little KV lasts as long as its blocks take to be scheduled, wave after wave;
    over much, as long as the bytes take. With fewer pairs of a sequence and a KV head than SMs, a
    pair is split over several, and eb falls to split_share eb as pairs / SMs goes from 1 to 0.
    """

    launch_seconds: float = 0.0
    wave_seconds: float = 0.0
    memory_efficiency: float = 1.0
    split_share: float = 1.0
    """Share of its bandwidth that a kernel keeps where one (sequence, KV head) pair has all SMs."""
    compute_efficiency: float = 1.0
    sharpness: float = math.inf
    reread_share: float = 0.0
    """Share of a sequence's KV that the kernel reads again for each further query row of a KV head:
    0 where it packs query heads and tokens, 1 where each of them reads everything."""

    @property
    def roof_sharpness(self) -> float:
        """The q between bytes and FLOP: `ROOF_SHARPNESS`, or infinite in the naive roofline, whose
        every maximum is a plain one."""
        return ROOF_SHARPNESS if math.isfinite(self.sharpness) else math.inf


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CollectiveFit:
    """All-reduce of S bytes over N ranks: min(one-shot, two-shot).

    one = one_shot + (N-1) S / (one_shot_efficiency L), with L the link's one-way rate;
    two = two_shot + hop (N-1) + 2 (N-1)/N S / (two_shot_efficiency L).
    """

    one_shot_seconds: float = 0.0
    one_shot_efficiency: float = 1.0
    two_shot_seconds: float = 0.0
    two_shot_efficiency: float = 1.0
    hop_seconds: float = 0.0
    spread: float = 0.0
    """Share of the form within which 80 % of the all-reduces lie that did not fit it."""
    eager_seconds: float = 0.0
    """What the host takes to launch one outside a CUDA graph: such a collective lasts at least as
    long, for the next launch overlaps with this one's run."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class HostFit:
    """What kernels leave out: constants of the serving stack."""

    kernel_seconds: float = 0.0
    """Least seconds that one element-wise kernel takes."""
    step_seconds: float = 0.0
    """Seconds to schedule and launch one forward pass."""
    sequence_seconds: float = 0.0
    """Seconds added to a target pass for each sequence of the batch: scheduling, detokenising."""
    token_seconds: float = 0.0
    """Seconds added to any pass for each token it feeds: logits and sampling."""
    draft_step_seconds: float = 0.0
    """Seconds to schedule and launch one draft step."""
    draft_query_seconds: float = 0.0
    """Seconds added to a draft step for every number of its queries on a GPU (sequences x layers x
    heads x dimensions), where a stack drafts with a prefill kernel, which fills whole tiles."""
    own_vocabulary_seconds: float = 0.0
    """Seconds added to a draft step of a head with a vocabulary of its own: its tokens are mapped
    to the target's."""
    draft_step_spread: float = 0.0
    """Largest share by which the draft-step times of one published sweep differ."""
    round_seconds: float = 0.0
    """Seconds of accepting, rejecting and bookkeeping in one speculation round."""
    round_batch_seconds: float = 0.0
    """Seconds added to a round, times the square root of the batch's sequences beyond the first:
    sampling, rejection, metadata, KV bookkeeping, and the draft's own pass over the tokens
    accepted. Both published sweeps over batches of 2 to 64 grow so, and not in proportion."""
    round_batch_spread: float = 0.0
    """Share of `round_batch_seconds` within which 80 % of published sweeps and versions differ."""
    request_seconds: float = 0.0
    """Seconds that a request takes beside its steps before its first token is out: its way in and
    that token's way out, tokenising, scheduling."""

    def pass_seconds(self, sequences: Any, tokens: Any) -> Any:
        """Host time of one target pass that feeds `tokens` of `sequences`."""
        return self.step_seconds + self.sequence_seconds * sequences + self.token_seconds * tokens

    def draft_seconds(self, tokens: Any, *, own_vocabulary: bool = False) -> Any:
        """Host time of one draft step that feeds `tokens`."""
        return self.draft_launch_seconds(own_vocabulary) + self.token_seconds * tokens

    def draft_launch_seconds(self, own_vocabulary: bool) -> float:
        """Host time of one draft step, however many tokens it feeds."""
        return self.draft_step_seconds + own_vocabulary * self.own_vocabulary_seconds

    def between_passes_seconds(self, sequences: Any) -> Any:
        """Host time of a round of `sequences` beside its draft and target passes."""
        return self.round_seconds + self.batch_seconds(sequences)

    def batch_seconds(self, sequences: Any) -> Any:
        """Host time of a round beside its passes that grows with the batch."""
        return self.round_batch_seconds * np.sqrt(np.maximum(sequences, 1.0) - 1.0)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Residual:
    """Measured over predicted, 10th and 90th percentile; `basis` says on which rows."""

    low: float
    high: float
    basis: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Calibration:
    """Fitted constants of one (accelerator, stack, version); `ideal()` is the naive roofline."""

    name: str
    origin: str
    step_residual: Residual
    speedup_residual: Residual
    linear: Mapping[str, LinearFit] = field(default_factory=dict)
    """Constants of linear layers by math dtype; a dtype that is not here takes the ideal form."""
    experts: Mapping[str, ExpertFit] = field(default_factory=dict)
    """Constants of grouped products of experts by format of their weights; without one, experts are
    launched and multiplied as single products are."""
    prefill: Mapping[str, PrefillFit] = field(default_factory=dict)
    """Constants of prompts' attention by KV dtype; without one, prompts take decode attention's."""
    attention: Mapping[str, AttentionFit] = field(default_factory=dict)
    """Constants of decode attention by KV dtype."""
    layers: Mapping[str, LinearFit] = field(default_factory=dict)
    """Constants by kind of layer (`Op.layer`) where tables know one by itself, as recurrences; its
    ops take these in place of those of attention."""
    collective: CollectiveFit = CollectiveFit()
    host: HostFit = HostFit()
    experts_residual: Residual | None = None
    """Residual of step times of mixtures of experts; None where no published step says it."""
    first_token_residual: Residual | None = None
    """Residual of times to first token of dense models under load; None where no run says it."""
    experts_first_token_residual: Residual | None = None
    """Residual of times to first token of mixtures of experts under load; None where no run says
    it."""
    accelerator: str = ""
    """The part that a calibration of one's own was fitted on; "" where its file does not say."""
    evidence: tuple[Mapping[str, Any], ...] = ()
    """What the constants rest on, a table a part: its rows, where they are from, what it misses."""

    def __post_init__(self) -> None:
        for part in (self.linear, self.layers, self.experts, self.prefill, self.attention):
            for fit in part.values():
                _check(self.name, fit)
        for residual in (
            self.step_residual, self.speedup_residual, self.experts_residual,
            self.first_token_residual, self.experts_first_token_residual,
        ):  # fmt: skip
            if residual is not None and not 0 < residual.low <= residual.high < math.inf:
                raise SpecError(
                    self.name,
                    f"a residual goes from {residual.low} to {residual.high}, expected two numbers "
                    "above 0 that rise",
                )
        _check(self.name, self.collective)
        _check(self.name, self.host)

    def for_experts(self) -> Calibration:
        """This calibration with the residuals of mixtures of experts in place of those of dense
        models, where published runs of the stack say them."""
        return replace(
            self,
            step_residual=self.experts_residual or self.step_residual,
            first_token_residual=self.experts_first_token_residual,
        )

    def linear_fit(self, dtype: str) -> LinearFit:
        """The fit of linear layers in that math dtype, or in the nearest one fitted."""
        return _nearest(self.linear, dtype, _IDEAL_LINEAR)

    def expert_fit(self, weight_format: str, dtype: str) -> ExpertFit:
        """The fit of grouped products of weights in that format, or in the nearest one fitted;
        where no table holds them, two linear layers of math in `dtype`."""
        if self.experts:
            return _nearest(self.experts, weight_format, _IDEAL_EXPERTS)
        single = self.linear_fit(dtype)
        return ExpertFit(
            launch_seconds=2 * single.launch_seconds,
            memory_efficiency=single.memory_efficiency,
            compute_efficiency=single.compute_efficiency,
            sharpness=single.sharpness,
            activation_passes=1 / single.memory_efficiency,
        )

    def prefill_fit(self, kv_dtype: str) -> PrefillFit | None:
        """The fit of a prompt's attention, if there is one in that dtype or in the nearest."""
        return _nearest(self.prefill, kv_dtype, None)

    def attention_fit(self, kv_dtype: str) -> AttentionFit:
        """The fit of attention over a cache of that dtype, or of the nearest one fitted."""
        return _nearest(self.attention, kv_dtype, _IDEAL_ATTENTION)


_NEAREST = {"fp16": "bf16", "fp8": "bf16", "int8": "fp8", "fp4": "fp8", "int4": "fp8"}
Fit = TypeVar("Fit")
Otherwise = TypeVar("Otherwise")


def _nearest(fits: Mapping[str, Fit], dtype: str, otherwise: Otherwise) -> Fit | Otherwise:
    """Narrow formats share kernels: what was not measured behaves most like the next wider."""
    while dtype not in fits and dtype in _NEAREST:
        dtype = _NEAREST[dtype]
    return fits.get(dtype, otherwise)


_IDEAL_LINEAR = LinearFit()
_IDEAL_EXPERTS = ExpertFit()
_IDEAL_ATTENTION = AttentionFit()


def _check(name: str, part: Any) -> None:
    """Refuse constants that could beat the datasheet."""
    for entry in fields(part):
        value = getattr(part, entry.name)
        if entry.name.endswith("seconds") and not 0 <= value < math.inf:
            raise SpecError(name, f"{entry.name} is {value}, expected a time of 0 or more")
        if entry.name.endswith("spread") and not 0 <= value < math.inf:
            raise SpecError(name, f"{entry.name} is {value}, expected a share of 0 or more")
        if entry.name.endswith("share") and not 0 <= value <= 1:
            raise SpecError(name, f"{entry.name} is {value}, expected a number from 0 to 1")
        if entry.name == "activation_passes" and not 1 <= value < math.inf:
            raise SpecError(name, f"{entry.name} is {value}, expected a number of 1 or more")
        if entry.name == "score_flops" and not 0 <= value < math.inf:
            raise SpecError(name, f"{entry.name} is {value}, expected a number of 0 or more")
        if entry.name.endswith("sharpness") and not value >= 1:
            raise SpecError(name, f"{entry.name} is {value}, expected 1 or more")
        if entry.name.endswith(("efficiency", "split_share")) and not 0 < value <= 1:
            raise SpecError(name, f"{entry.name} is {value}, expected more than 0, at most 1")
