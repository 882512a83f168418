"""What a server's published command line says of its layout and limits.

Three engines spell the same things in their own ways. An option that is on no list here may change
what a run measures, so that its row cannot be predicted.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass

from magicplan.errors import UsageError
from magicplan.hardware_specs.accelerator import Accelerator

NUMBERS = {
    "tp": ("-tp", "--tp", "--tensor-parallel-size", "--tp-size", "--tp_size"),
    "pp": ("-pp", "--pp", "--pipeline-parallel-size", "--pp-size", "--pp_size"),
    "ep": ("--ep", "--ep-size", "--ep_size", "--expert-parallel-size"),
    "dp": ("-dp", "--dp", "--data-parallel-size", "--dp-size"),
    "batched_tokens": ("--max-num-batched-tokens", "--chunked-prefill-size", "--max_num_tokens"),
    "max_sequences": ("--max-num-seqs", "--max-running-requests", "--max_batch_size"),
}
"""Options that a number follows."""
TEXTS = {
    "model": ("--model", "--model-path"),
    "kv": ("--kv-cache-dtype", "--kv_cache_dtype"),
    "quantisation": ("--quantization",),
}
FLAGS = {
    "experts_apart": ("--enable-expert-parallel",),
    "attention_apart": ("--enable-dp-attention", "--enable_attention_dp"),
}
PLAIN = (
    "--async-scheduling", "--attention-backend", "--context-length", "--cuda-graph-max-bs",
    "--disable-log-requests", "--enable-chunked-prefill", "--enable_chunked_prefill",
    "--gpu-memory-utilization", "--host", "--max-model-len", "--max_seq_len",
    "--mem-fraction-static", "--no-enable-prefix-caching", "--port", "--reasoning-parser",
    "--served-model-name", "--tool-call-parser", "--trust-remote-code", "--trust_remote_code",
)  # fmt: skip
"""Options that change nothing here: names and addresses, the room for a cache, kernels that the
tables of a version hold anyway."""
SERVERS = ("serve", "sglang.launch_server", "trtllm-serve")
VLLM_SMALL = 256
"""Sequences at once, and a quarter of the tokens, that vLLM's server takes on an A100 and on parts
below 70 GiB (vllm/engine/arg_utils.py, `_set_default_args`)."""
SEQUENCES = {"vllm": 1024, "sglang": 4096, "trtllm": 2048}
TOKENS = {"vllm": 8192, "sglang": 8192, "trtllm": 8192}
"""Defaults of the three servers on larger parts."""
GIB70 = 70 * 2**30


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchLine:
    """One server: its checkpoint, degrees and limits; what its command leaves out is the engine's
    default on that part."""

    model: str
    tp: int
    pp: int
    ep: int
    attention_dp: int
    replicas: int
    batched_tokens: float
    max_sequences: float
    kv: str
    quantisation: str


def launched(command: str, stack: str, accelerator: Accelerator) -> LaunchLine:
    """What a command says. Raises UsageError for an option or a value that is not understood."""
    words = [part for word in shlex.split(command) for part in _split(word)]
    found = _options(words)
    gpus, dp = int(found.get("tp", 1)), int(found.get("dp", 1))
    small = stack == "vllm" and _small(accelerator)
    groups = _groups(stack, found, gpus, dp)
    tp = gpus if stack == "vllm" else max(gpus // groups, 1)
    return LaunchLine(
        model=str(found.get("model", "")),
        tp=tp,
        pp=int(found.get("pp", 1)),
        ep=tp * groups if "experts_apart" in found else int(found.get("ep", 1)),
        attention_dp=groups,
        replicas=1 if groups > 1 else dp,
        batched_tokens=float(found.get("batched_tokens", TOKENS[stack] / (4 if small else 1))),
        max_sequences=float(found.get("max_sequences", VLLM_SMALL if small else SEQUENCES[stack])),
        kv=str(found.get("kv", "")),
        quantisation=str(found.get("quantisation", "")),
    )


def _groups(stack: str, found: dict[str, float | str], gpus: int, dp: int) -> int:
    """Groups of data-parallel attention: vLLM's data parallelism where experts are spread over it;
    SGLang's by a flag of its own, inside the GPUs of its TP; TensorRT-LLM's one a GPU."""
    if stack == "vllm":
        return dp if "experts_apart" in found else 1
    if "attention_apart" not in found:
        return 1
    return gpus if stack == "trtllm" else dp


def _small(accelerator: Accelerator) -> bool:
    return accelerator.name.startswith("a100") or accelerator.memory_bytes < GIB70


def _split(word: str) -> list[str]:
    """An option and its value where an equals sign joins them."""
    name, joined, value = word.partition("=")
    return [name, value] if joined and word.startswith("-") else [word]


def _options(words: list[str]) -> dict[str, float | str]:
    """Options by what they mean; the word after a server's name is its checkpoint."""
    found: dict[str, float | str] = {}
    values = iter(range(len(words)))
    for at in values:
        word, after = words[at], words[at + 1] if at + 1 < len(words) else ""
        number = next((k for k, names in NUMBERS.items() if word in names), None)
        text = next((k for k, names in TEXTS.items() if word in names), None)
        flag = next((k for k, names in FLAGS.items() if word in names), None)
        if number or text:
            found[number or text or ""] = _number(word, after) if number else after
            next(values, None)
        elif flag:
            found[flag] = 1
        elif word in SERVERS and after and not after.startswith("-"):
            found["model"] = after
            next(values, None)
        elif word in PLAIN:
            if after and not after.startswith("-"):
                next(values, None)
        elif word.startswith("-") and word != "-m":
            raise UsageError(f"option {word} of the server's command is not modelled")
    return found


def _number(option: str, text: str) -> float:
    if not re.fullmatch(r"[1-9]\d*", text):
        raise UsageError(f"{option} {text!r} of the server's command is not a number")
    return float(text)
