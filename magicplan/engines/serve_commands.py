"""The words of an engine's command line for a replica of a plan, and for what routes between two
kinds of them. An engine's own option names stand in one place each."""

from __future__ import annotations

import math
from dataclasses import dataclass

from magicplan import hardware_specs, model_specs
from magicplan.engine_specs.capabilities import Engine
from magicplan.engines.settings import model_id
from magicplan.planning.request import PlanRequest
from magicplan.planning.result import Candidate

CHECKPOINTS = {"fp8": "fp8", "mxfp4": "fp4"}
"""What a published checkpoint's quantisation is called here."""


WRITTEN_OUT = 4
"""Hosts that a router's command names one by one; more are counted through by the shell."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Command:
    """Words, an option and its value one after the other, and what they could not express."""

    words: list[str]
    notes: list[str]
    before: str = ""
    """Variables that stand before the command."""


def _names(best: Candidate) -> str:
    counted = max(best.prefill_replicas, best.replicas) > WRITTEN_OUT
    return "prefill-1, decode-1 and so on stand for the replicas' hosts" + (
        ", which bash counts through" if counted else ""
    )


def _hosts(form: str, count: int) -> str:
    """A word for every replica, %d being its number from 1."""
    if count <= WRITTEN_OUT:
        return " ".join(form.replace("%d", str(n + 1)) for n in range(count))
    form = form if "%d" in form else form + "%.0s"
    return f"$(printf -- '{form} ' {{1..{count}}})"


def _checkpoint(ask: PlanRequest, best: Candidate) -> tuple[str, list[str]]:
    """What to serve: the model's own checkpoint where it is in the format, or can be cast to it
    as it loads; else one to be found."""
    quantised = model_specs.load(ask.model).quantised
    own = CHECKPOINTS.get(quantised, quantised) or "bf16"
    if best.dtype == own or (best.dtype in ("bf16", "fp16", "fp8") and not quantised):
        cast = best.dtype == "fp8" and not quantised
        note = "16-bit weights are cast to fp8 as they load; an fp8 checkpoint needs no flag"
        return model_id(ask.model), [note] if cast else []
    note = f"PATH_OF_{best.dtype}_CHECKPOINT: weights in {best.dtype}, which its config.json names"
    return f"PATH_OF_{best.dtype}_CHECKPOINT", [note]


def _formats(ask: PlanRequest, best: Candidate, engine: Engine) -> list[str]:
    words = []
    if best.dtype == "fp16":
        words += ["--dtype", "float16"]
    if best.dtype == "fp8" and not model_specs.load(ask.model).quantised:
        words += ["--quantization", "fp8"]
    entry = engine.has(f"kv_{best.kv_dtype}")
    if entry:
        words += ["--kv-cache-dtype", entry.option]
    return words


def _nodes(best: Candidate) -> int:
    """Hosts that a replica needs."""
    gpus = best.tp * best.pp * best.attention_dp
    return math.ceil(gpus / hardware_specs.load(best.gpu).node_size)


def _sequences(ask: PlanRequest, best: Candidate) -> int:
    """Requests a replica may run: what the plan counted on, not more than it holds safely."""
    return max(1, min(ask.max_sequences, best.max_batch_per_replica))
