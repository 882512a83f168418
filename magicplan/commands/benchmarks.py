"""The command about one given server: what a load generator would report of it."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from magicplan.commands.options import Json
from magicplan.commands.output import answer
from magicplan.errors import UsageError

Text = str | None
COUNTS = ("gpus", "tp", "replicas", "num_prompts", "batched_tokens", "max_sequences", "pp", "ep",
          "attention_dp", "gamma")  # fmt: skip
NUMBERS = ("concurrency", "request_rate", "burstiness", "memory_fraction")
LIMIT = re.compile(r"\s*(\w+?)(?:_seconds)?\s*=\s*([0-9.eE+-]+)\s*(ms|s)?\s*")


def bench(
    gpu: Annotated[str, typer.Option("--gpu", help="Accelerator name.")],
    model: Annotated[str, typer.Option("--model", help="Model name or config.json.")] = (
        "llama-3.1-8b"
    ),
    gpus: Annotated[Text, typer.Option("--gpus", help="All GPUs of the server.")] = None,
    tp: Annotated[Text, typer.Option("--tp", help="Tensor parallel degree.")] = None,
    pp: Annotated[Text, typer.Option("--pp", help="Pipeline stages.")] = None,
    ep: Annotated[Text, typer.Option("--ep", help="Expert parallel degree.")] = None,
    attention_dp: Annotated[
        Text, typer.Option("--attention-dp", help="Data-parallel attention groups.")
    ] = None,
    replicas: Annotated[Text, typer.Option("--replicas", help="Replicas behind a router.")] = None,
    routing: Annotated[
        str,
        typer.Option("--routing", help="random, round-robin, least-outstanding or sticky."),
    ] = "random",
    concurrency: Annotated[
        Text, typer.Option("--concurrency", help="Requests always in flight.")
    ] = None,
    request_rate: Annotated[
        Text, typer.Option("--request-rate", help="Requests a second, at random.")
    ] = None,
    num_prompts: Annotated[
        Text, typer.Option("--num-prompts", help="A finite run, ramp and drain included.")
    ] = None,
    burstiness: Annotated[
        Text, typer.Option("--burstiness", help="As in vllm bench serve: 1 is at random.")
    ] = None,
    prompt: Annotated[Text, typer.Option("--prompt", help="2048, 8k, lognormal:1200,6000.")] = None,
    output: Annotated[Text, typer.Option("--output", help="Tokens, written the same way.")] = None,
    trace: Annotated[Text, typer.Option("--trace", help="A trace of arrivals and lengths.")] = None,
    prefix_hit_rate: Annotated[
        str, typer.Option("--prefix-hit-rate", help="Share of prompt tokens found cached.")
    ] = "0",
    slo: Annotated[
        list[str] | None,
        typer.Option("--slo", help="Largest load within ttft_p95=1, tpot_p95=30ms, ...."),
    ] = None,
    dtype: Annotated[Text, typer.Option("--dtype", help="Weight format.")] = None,
    kv_dtype: Annotated[Text, typer.Option("--kv-dtype", help="KV cache format.")] = None,
    draft: Annotated[str, typer.Option("--draft", help="none, eagle3, ngram, a model.")] = "none",
    acceptance: Annotated[str, typer.Option("--acceptance", help="As in predict.")] = "auto",
    gamma: Annotated[Text, typer.Option("--gamma", help="Drafted tokens a round.")] = None,
    stack: Annotated[str, typer.Option("--stack", help="vllm, sglang, trtllm, a path.")] = "vllm",
    batched_tokens: Annotated[
        Text, typer.Option("--batched-tokens", help="Most tokens a step feeds.")
    ] = None,
    max_sequences: Annotated[
        Text, typer.Option("--max-sequences", help="Most requests at once, a replica.")
    ] = None,
    memory_fraction: Annotated[
        Text, typer.Option("--memory-fraction", help="Share of the memory used.")
    ] = None,
    itl: Annotated[str, typer.Option("--itl", help="Gaps as vllm or sglang counts them.")] = "vllm",
    seed: Annotated[str, typer.Option("--seed", help="Of arrivals, lengths, rounds.")] = "0",
    figure: Annotated[
        Path | None, typer.Option("--figure", help="Draw the load over time: PNG or SVG.")
    ] = None,
    json: Json = False,
) -> None:
    """What a load generator would report of one server; with --slo, the largest load it bears.

    Example: magicplan bench --gpu h100 --concurrency 32 --prompt 1024 --output 256
    """
    given = {name: value for name, value in locals().items() if value is not None}
    from magicplan.serving.bench import bench as simulated
    from magicplan.units import parse_count, parse_number

    options: dict[str, Any] = {
        k: v for k, v in given.items() if k not in ("slo", "figure", "json", "seed")
    }
    for name in COUNTS:
        if name in options:
            options[name] = parse_count(
                options[name], option="--" + name.replace("_", "-"), low=int(name != "gamma")
            )
    for name in NUMBERS:
        if name in options:
            options[name] = parse_number(options[name], option="--" + name.replace("_", "-"))
    options["prefix_hit_rate"] = parse_number(
        prefix_hit_rate, option="--prefix-hit-rate", zero=True
    )
    options["seed"] = parse_count(seed, option="--seed", low=0)
    found = simulated(slo=dict(map(_limit, slo or [])), **options)
    answer(found.to_dict(), json=json, figure=figure, name="bench")
    if found.goodput is not None and not found.goodput.request_rate > 0:
        sys.exit(1)


def _limit(text: str) -> tuple[str, float]:
    """ "tpot_p95=30ms" as a key of limits and seconds."""
    found = LIMIT.fullmatch(text)
    if found is None:
        raise UsageError(f"--slo {text!r}: expected a figure and seconds, as in ttft_p95=500ms")
    try:
        value = float(found[2]) * (1e-3 if found[3] == "ms" else 1.0)
    except ValueError:
        raise UsageError(f"--slo {text!r}: {found[2]} is no number") from None
    return f"{found[1]}_seconds", value
