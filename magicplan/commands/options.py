"""The options that every command about a workload takes, and a `Request` from their texts."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer

Gpu = Annotated[str, typer.Option("--gpu", help="Accelerator name, alias, or a TOML of your own.")]
Model = Annotated[str, typer.Option("--model", help="Model name, or a config.json or its folder.")]
Batch = Annotated[str, typer.Option("--batch", help="Sequences decoded together.")]
Ctx = Annotated[str, typer.Option("--ctx", help="Tokens in the KV cache; 64k is 65536.")]
Output = Annotated[str, typer.Option("--output", help="Tokens still to be generated.")]
Gpus = Annotated[str, typer.Option("--gpus", help="Number of GPUs, or auto.")]
Tp = Annotated[str, typer.Option("--tp", help="Tensor parallel degree, or auto.")]
Pp = Annotated[str, typer.Option("--pp", help="Pipeline stages, or auto.")]
Ep = Annotated[str, typer.Option("--ep", help="Expert parallel degree.")]
AttentionDp = Annotated[str, typer.Option("--attention-dp", help="Data-parallel attention groups.")]
Dtype = Annotated[
    str | None, typer.Option("--dtype", help="bf16, fp16, fp8, int8, fp4, or int4 (weights only).")
]
KvDtype = Annotated[str | None, typer.Option("--kv-dtype", help="bf16, fp16, fp8, int8 or int4.")]
Stack = Annotated[
    str, typer.Option("--stack", help="vllm, sglang, trtllm, magicdec, ideal, or a calibration.")
]
MemoryFraction = Annotated[
    str, typer.Option("--memory-fraction", help="Share of the reported memory that may be used.")
]
Draft = Annotated[
    str, typer.Option("--draft", help="none, self, eagle3, mtp, medusa, ngram, triforce, a model.")
]
DraftKv = Annotated[
    str | None,
    typer.Option("--draft-kv", help="full, streaming:N, snapkv:N, topk:N or quant:4|8."),
]
DraftDtype = Annotated[
    str | None, typer.Option("--draft-dtype", help="The draft's own weight format, such as int4.")
]
AcceptanceText = Annotated[
    str,
    typer.Option(
        "--acceptance",
        help="0.8, cond:.., marg:.., beta:a,b, mix:.., law:.., rank:FILE, file:FILE, auto.",
    ),
]
Task = Annotated[
    str | None, typer.Option("--task", help="Task that --acceptance auto should match.")
]
Gamma = Annotated[str, typer.Option("--gamma", help="Drafted tokens a round, or auto.")]
MaxGamma = Annotated[str, typer.Option("--max-gamma", help="Longest draft considered.")]
KvPasses = Annotated[
    str,
    typer.Option("--verify-kv-passes", help="How often verification reads the KV, or auto."),
]
WantSpeedup = Annotated[
    str | None, typer.Option("--want-speedup", help="Show the acceptance this speedup needs.")
]
Batching = Annotated[
    str, typer.Option("--batching", help="continuous, or static: wait for the slowest sequence.")
]
TreeRanks = Annotated[
    str, typer.Option("--tree-ranks", help="Ranks of trees: pooled, raw or power-law.")
]
Eager = Annotated[
    bool, typer.Option("--eager", help="Collectives launched one by one, not in CUDA graphs.")
]
Options = dict[str, Any]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


def _shared(
    gpu: Gpu,
    model: Model = "llama-3.1-8b",
    batch: Batch = "1",
    ctx: Ctx = "4k",
    output: Output = "0",
    gpus: Gpus = "auto",
    tp: Tp = "auto",
    pp: Pp = "auto",
    ep: Ep = "1",
    attention_dp: AttentionDp = "1",
    dtype: Dtype = None,
    kv_dtype: KvDtype = None,
    stack: Stack = "vllm",
    memory_fraction: MemoryFraction = "0.92",
    draft: Draft = "self",
    draft_kv: DraftKv = None,
    draft_dtype: DraftDtype = None,
    acceptance: AcceptanceText = "auto",
    task: Task = None,
    gamma: Gamma = "auto",
    max_gamma: MaxGamma = "16",
    verify_kv_passes: KvPasses = "auto",
    want_speedup: WantSpeedup = None,
    batching: Batching = "continuous",
    tree_ranks: TreeRanks = "pooled",
    eager: Eager = False,
) -> None:
    """The options that every command about a workload takes."""


@functools.cache
def _shared_parameters() -> tuple[inspect.Parameter, ...]:
    """Evaluating annotations takes a millisecond a command: once is enough."""
    return tuple(inspect.signature(_shared, eval_str=True).parameters.values())


def workload(**defaults: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the shared options, gathered into its first argument."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        shared = _shared_parameters()
        own = list(inspect.signature(command, eval_str=True).parameters.values())[1:]

        @functools.wraps(command)
        def run(**given: Any) -> None:
            command({p.name: given.pop(p.name) for p in shared}, **given)

        parameters = [
            p.replace(kind=inspect.Parameter.KEYWORD_ONLY, default=defaults.get(p.name, p.default))
            for p in (*shared, *own)
        ]
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        return run

    return decorate


def request_of(options: dict[str, Any], *, grid: bool) -> Any:
    """A `Request` from the texts of the shared options. Raises BadQuantity, naming the option."""
    from magicplan.prediction.request import Request
    from magicplan.units import parse_count, parse_grid, parse_number, parse_tokens

    def text(name: str) -> tuple[str, str]:
        return options[name], "--" + name.replace("_", "-")

    def count(name: str, low: int = 1) -> int:
        value, option = text(name)
        return parse_count(value, option=option, low=low)

    def count_or_auto(name: str, low: int = 1) -> int | str:
        return "auto" if options[name] == "auto" else count(name, low)

    names = "gpu model dtype kv_dtype stack draft draft_kv draft_dtype acceptance task batching"
    names += " tree_ranks eager"
    read: dict[str, Any] = {name: options[name] for name in names.split()}
    if grid:
        read["batch"] = parse_grid(options["batch"], option="--batch")
        read["ctx"] = parse_grid(options["ctx"], option="--ctx", tokens=True)
    else:
        read["batch"] = count("batch")
        read["ctx"] = parse_tokens(options["ctx"], option="--ctx")
    read["output"] = parse_tokens(options["output"], option="--output", low=0)
    read |= {"gpus": count_or_auto("gpus"), "tp": count_or_auto("tp")}
    read |= {"gamma": count_or_auto("gamma", low=0), "max_gamma": count("max_gamma", low=0)}
    read |= {"ep": count("ep"), "attention_dp": count("attention_dp")}
    read["pp"] = None if options["pp"] == "auto" else count("pp")
    for name in ("memory_fraction", "verify_kv_passes", "want_speedup"):
        value, option = text(name)
        if value == "auto" and name == "verify_kv_passes":
            read[name] = value
        elif value is not None:
            read[name] = parse_number(value, option=option)
    return Request(**read)


def say(text: str) -> None:
    """A note on stderr, which leaves stdout to the answer."""
    sys.stderr.write(text + "\n")
