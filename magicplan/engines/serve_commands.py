"""A replica as the command lines of serving engines need it, and the words that engines share."""

from __future__ import annotations

import math
from dataclasses import dataclass

from magicplan import hardware_specs, model_specs
from magicplan.engine_specs.capabilities import EngineVersion
from magicplan.engines.settings import model_id

MOST_HOSTS_NAMED = 4
"""Hosts that a router's command names one by one; more are counted through by the shell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """One replica to start: its checkpoint, formats, degrees of parallelism and limits."""

    model: str
    """Name of a preset, Hugging Face id, or path of a config.json."""
    gpu: str
    dtype: str
    """Format of the weights: bf16, fp16, fp8, int8, fp4 or int4."""
    kv_dtype: str
    tp: int
    pp: int
    ep: int
    attention_dp: int
    """Groups of GPUs with attention, sequences and a scheduler of their own."""
    ctx_tokens: int
    """Tokens of the longest request, prompt and output together."""
    sequences: int
    """Largest number of requests that the replica runs at once."""
    batched_tokens: int
    """Largest number of tokens that one step of the replica feeds."""
    memory_fraction: float
    """Share of each GPU's memory that the engine may take."""
    role: str = "serve"
    """`serve` for all of the work, `prefill` or `decode` for one half of a disaggregated fleet."""
    drafts: bool = False
    """Whether the replica runs speculative decoding."""

    @property
    def nodes(self) -> int:
        """Hosts that the replica spans."""
        gpus = self.tp * self.pp * self.attention_dp
        return math.ceil(gpus / hardware_specs.load(self.gpu).node_size)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Command:
    """The words of a command, options and values in turn, and what they could not express."""

    words: list[str]
    notes: list[str]
    before: str = ""
    """Environment variables that stand before the command."""


def checkpoint(server: Server) -> tuple[str, list[str]]:
    """The checkpoint to serve, and notes on it.

    It is the model's own where that has the format, or can be cast to it as it loads; else a path
    that the user has to fill in.
    """
    formats = model_specs.load(server.model).formats
    quantised, own = bool(formats.method), formats.dtype
    if server.dtype == own or (server.dtype in ("bf16", "fp16", "fp8") and not quantised):
        cast = server.dtype == "fp8" and not quantised
        note = "16-bit weights are cast to fp8 as they load; an fp8 checkpoint needs no flag"
        return model_id(server.model), [note] if cast else []
    path = f"PATH_OF_{server.dtype}_CHECKPOINT"
    return path, [f"{path}: weights in {server.dtype}, which its config.json names"]


def format_words(server: Server, engine: EngineVersion) -> list[str]:
    """Options for the formats of weights and KV cache, which vLLM and SGLang name alike."""
    words = []
    if server.dtype == "fp16":
        words += ["--dtype", "float16"]
    if server.dtype == "fp8" and not model_specs.load(server.model).quantised:
        words += ["--quantization", "fp8"]
    entry = engine.has(f"kv_{server.kv_dtype}")
    if entry:
        words += ["--kv-cache-dtype", entry.option]
    return words


def hosts(form: str, count: int) -> str:
    """A word for each of `count` replicas, whose number from 1 replaces %d in `form`."""
    if count <= MOST_HOSTS_NAMED:
        return " ".join(form.replace("%d", str(n + 1)) for n in range(count))
    form = form if "%d" in form else form + "%.0s"
    return f"$(printf -- '{form} ' {{1..{count}}})"


def host_note(prefill_replicas: int, decode_replicas: int) -> str:
    """A sentence on the host names in a router's command."""
    counted = max(prefill_replicas, decode_replicas) > MOST_HOSTS_NAMED
    return "prefill-1, decode-1 and so on stand for the replicas' hosts" + (
        ", which bash counts through" if counted else ""
    )
