"""How serving engines schedule: what is the same in all of them is in `simulation`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

BLOCK_TOKENS = 16
"""Tokens of a KV block in vLLM, of SGLang's page, and TensorRT-LLM's default; on average half of
one is empty for each request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The rules in which engines differ."""

    mixes: bool = True
    """Prompt chunks ride along with decoding; otherwise they go first and decoding waits."""
    asynchronous: bool = True
    """The next step is scheduled while one runs: an arrival misses one step more, and a finished
    request leaves one step late."""
    chunked: bool = True
    """A prompt may be cut at the budget; otherwise it waits for a step that holds it whole."""
    reserves_output: bool = False
    """A request is let in only if its whole output will fit, so that none is ever preempted."""
    in_batches: bool = False
    """New requests start together when all of the last batch have ended."""


POLICIES: Mapping[str, Policy] = MappingProxyType(
    {
        "vllm": Policy(),
        "vllm-sync": Policy(asynchronous=False),
        "sglang": Policy(mixes=False),
        "trtllm": Policy(asynchronous=False, reserves_output=True),
        "trtllm-max-utilisation": Policy(asynchronous=False),
        "static": Policy(
            mixes=False, asynchronous=False, chunked=False, reserves_output=True, in_batches=True
        ),
    }
)
"""vLLM V1's scheduler (vllm/v1/core/sched/scheduler.py, 0.11 and later: asynchronous); SGLang's
default without mixed chunks, with its overlap scheduler; TensorRT-LLM's in-flight batching with
chunked context, GUARANTEED_NO_EVICT and MAX_UTILIZATION; a static batch as in a plain loop."""


def policy_of(stack: str) -> Policy:
    """How a stack such as "sglang@0.5" schedules; one of which nothing is known, as vLLM does."""
    return POLICIES.get(stack.partition("@")[0], POLICIES["vllm"])


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerRules:
    """One engine as configured."""

    policy: Policy = POLICIES["vllm"]
    budget_tokens: int = 8192
    """Most tokens that one step feeds, drafted ones included."""
    max_sequences: int = 1024
    capacity_tokens: float = float("inf")
    """KV cache beside weights, workspace and the shared prefix."""
    gamma: int = 0
    shared_tokens: float = 0.0
    """Leading prompt tokens that all requests hold together and find computed."""
    keeps_prefixes: bool = True
    """Caches of ended turns stay findable until their room is needed, oldest first."""

    @property
    def slack_tokens(self) -> float:
        """Room beyond its tokens that a running request needs for its next step: its next token
        and drafted ones, and the empty half of its last block."""
        return self.gamma + 1 + (BLOCK_TOKENS - 1) / 2

    @property
    def slots(self) -> int:
        """Most requests that run at once: all of them must fit a step that only decodes."""
        return max(min(self.max_sequences, self.budget_tokens // (self.gamma + 1)), 1)
