"""The options that every command about a workload takes, and a `Request` from their texts."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer

WORKLOAD, MACHINE, FORMATS, DRAFTING = "Workload", "GPUs and stack", "Number formats", "Drafts"
"""Panels of help that the shared options stand in."""


def _names(room: str) -> Callable[[str], list[str]]:
    """What a shell completes a name to; names are read only when it asks."""

    def complete(incomplete: str) -> list[str]:
        from importlib import import_module

        known = import_module(f"magicplan.{room}").names()
        return [name for name in known if name.startswith(incomplete.lower())]

    return complete


def _stacks(incomplete: str) -> list[str]:
    from magicplan.hardware_specs.spelling import STACKS

    return [name for name in STACKS if name.startswith(incomplete.lower())]


def _text(flag: str, help: str, panel: str, complete: Any = None) -> Any:
    """An option that takes a text."""
    return typer.Option(flag, help=help, rich_help_panel=panel, autocompletion=complete)


_gpu = _text(
    "--gpu", "Accelerator: h100, a name as drivers print it, or a TOML of your own.", MACHINE,
    _names("hardware_specs"),
)  # fmt: skip
_model = _text(
    "--model", "Model: a name, a Hugging Face id, a config.json or its folder.", WORKLOAD,
    _names("model_specs"),
)  # fmt: skip
_stack = _text(
    "--stack", "vllm, sglang, trtllm (vllm@0.19.0 for a version), magicdec, ideal, or a TOML.",
    MACHINE, _stacks,
)  # fmt: skip
Gpu = Annotated[str, _gpu]
Model = Annotated[str, _model]
Batch = Annotated[str, _text("--batch", "Sequences decoded together.", WORKLOAD)]
Ctx = Annotated[str, _text("--ctx", "Tokens in the KV cache; 64k is 65536.", WORKLOAD)]
Output = Annotated[str, _text("--output", "Tokens still to be generated.", WORKLOAD)]
Gpus = Annotated[str, _text("--gpus", "Number of GPUs, or auto.", MACHINE)]
Tp = Annotated[str, _text("--tp", "Tensor parallel degree, or auto.", MACHINE)]
Pp = Annotated[str, _text("--pp", "Pipeline stages, or auto.", MACHINE)]
Ep = Annotated[str, _text("--ep", "Expert parallel degree.", MACHINE)]
AttentionDp = Annotated[str, _text("--attention-dp", "Data-parallel attention groups.", MACHINE)]
Dtype = Annotated[
    str | None,
    _text("--dtype", "bf16, fp16, fp8, int8, fp4, or int4 (weights only).", FORMATS),
]
KvDtype = Annotated[str | None, _text("--kv-dtype", "bf16, fp16, fp8, int8 or int4.", FORMATS)]
Stack = Annotated[str, _stack]
MemoryFraction = Annotated[
    str, _text("--memory-fraction", "Share of the reported memory that may be used.", MACHINE)
]
Draft = Annotated[
    str,
    _text("--draft", "auto, none, self, eagle3, mtp, ngram, ..., or a smaller model.", DRAFTING),
]
DraftKv = Annotated[
    str | None, _text("--draft-kv", "full, streaming:N, snapkv:N, topk:N or quant:4|8.", DRAFTING)
]
DraftDtype = Annotated[
    str | None,
    _text("--draft-dtype", "The draft's own weight format, such as int4.", DRAFTING),
]
AcceptanceText = Annotated[
    str,
    _text(
        "--acceptance",
        "0.8, cond:.., marg:.., beta:a,b, mix:.., law:.., rank:FILE, file:FILE, auto.",
        DRAFTING,
    ),
]
Task = Annotated[
    str | None,
    _text("--task", "Task that --acceptance auto should match; see stacks --tasks.", DRAFTING),
]
Gamma = Annotated[str, _text("--gamma", "Drafted tokens a round, or auto.", DRAFTING)]
MaxGamma = Annotated[str, _text("--max-gamma", "Longest draft considered.", DRAFTING)]
KvPasses = Annotated[
    str, _text("--verify-kv-passes", "How often verification reads the KV, or auto.", DRAFTING)
]
WantSpeedup = Annotated[
    str | None, _text("--want-speedup", "Show the acceptance this speedup needs.", DRAFTING)
]
Batching = Annotated[
    str, _text("--batching", "continuous, or static: wait for the slowest sequence.", WORKLOAD)
]
TreeRanks = Annotated[
    str, _text("--tree-ranks", "Ranks of trees: pooled, raw or power-law.", DRAFTING)
]
Eager = Annotated[
    bool,
    typer.Option(
        "--eager", help="Collectives launched one by one, not in CUDA graphs.",
        rich_help_panel=MACHINE,
    ),
]  # fmt: skip
Options = dict[str, Any]
Full = Annotated[
    bool, typer.Option("--full", help="Print everything, not only what fits a screen.")
]
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
    draft: Draft = "auto",
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
