"""Commands about capacity: a plan, and reports of any run."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from magicplan.commands.options import Full, Json, say
from magicplan.commands.output import hand_out
from magicplan.commands.panels import in_panels
from magicplan.errors import FieldError, UsageError, option

if TYPE_CHECKING:
    from magicplan.planning.result import Plan

Html = Annotated[
    Path | None, typer.Option("--html", help="Write one HTML file that needs no network.")
]
Markdown = Annotated[Path | None, typer.Option("--markdown", help="Write a Markdown file.")]
Text = str | None
Prices = Annotated[
    Text,
    typer.Option("--prices", help="Your USD a GPU-hour: h100=2.5,b200=4, or a TOML of them."),
]
TRAFFIC = ("requests_per_s", "users", "tokens_per_day", "trace")
LISTS = {"gpu": "gpus", "dtype": "dtypes", "kv_dtype": "kv_dtypes", "draft": "drafts"}
"""Options that take several values by commas, and the fields they fill."""
NUMBERS = ("requests_per_s", "users", "tokens_per_day", "think_seconds", "peak_factor",
           "budget_usd_per_hour")  # fmt: skip
SHARES = ("growth", "prefix_hit_rate")
"""Numbers that may be 0."""
NOT_FIELDS = (
    "file",
    "slo",
    "observed",
    "stated",
    "fitted",
    "init",
    "html",
    "markdown",
    "full",
    "json",
)
FIRST_FILE = Path("plan.toml")
PANELS = {
    "Traffic": (
        "requests_per_s", "users", "think_seconds", "tokens_per_day", "trace", "prompt", "output",
        "peak_factor", "growth", "prefix_hit_rate",
    ),
    "Limits and money": (
        "slo", "objective", "budget_usd_per_hour", "max_gpus", "available", "prices",
    ),
    "What may be chosen": (
        "model", "gpu", "stack", "dtype", "kv_dtype", "draft", "acceptance", "trees",
    ),
    "A measured server beside it": ("observed", "stated", "fitted"),
}  # fmt: skip
DEFAULTS = {"model": "llama-3.1-8b", "stack": "vllm", "objective": "cost", "growth": "0",
            "prefix_hit_rate": "0", "prompt": "1024", "output": "256"}  # fmt: skip
"""Defaults of `PlanRequest` in words, which help shows without loading it."""


@in_panels(PANELS, DEFAULTS)
def plan(
    file: Annotated[Path | None, typer.Argument(help="A plan file; --init writes one.")] = None,
    model: Annotated[
        Text, typer.Option("--model", help="Model name, Hugging Face id or config.json.")
    ] = None,
    gpu: Annotated[Text, typer.Option("--gpu", help="Accelerator names, by commas.")] = None,
    requests_per_s: Annotated[Text, typer.Option("--requests-per-s", help="Mean rate.")] = None,
    users: Annotated[Text, typer.Option("--users", help="People who take turns.")] = None,
    think_seconds: Annotated[
        Text, typer.Option("--think-seconds", help="Pause of a user between requests.")
    ] = None,
    tokens_per_day: Annotated[
        Text, typer.Option("--tokens-per-day", help="Output tokens of a whole day.")
    ] = None,
    trace: Annotated[Text, typer.Option("--trace", help="CSV of arrivals and lengths.")] = None,
    prompt: Annotated[
        Text, typer.Option("--prompt", help="Tokens: 2048, 8k, or lognormal:1200,6000.")
    ] = None,
    output: Annotated[Text, typer.Option("--output", help="Tokens, written the same way.")] = None,
    peak_factor: Annotated[
        Text, typer.Option("--peak-factor", help="Busiest minutes over the mean.")
    ] = None,
    growth: Annotated[
        Text, typer.Option("--growth", help="Growth to plan for: 0.5 is 1.5 times the traffic.")
    ] = None,
    prefix_hit_rate: Annotated[
        Text, typer.Option("--prefix-hit-rate", help="Share of prompt tokens found in the cache.")
    ] = None,
    slo: Annotated[
        list[str] | None,
        typer.Option(
            "--slo", help="A limit, such as ttft_p95=500ms or tpot_p95=0.03s; may be repeated."
        ),
    ] = None,
    dtype: Annotated[Text, typer.Option("--dtype", help="Weight formats, by commas.")] = None,
    kv_dtype: Annotated[Text, typer.Option("--kv-dtype", help="KV formats, by commas.")] = None,
    draft: Annotated[
        Text, typer.Option("--draft", help="Drafts by commas: none, auto, eagle3, ngram, ...")
    ] = None,
    acceptance: Annotated[Text, typer.Option("--acceptance", help="As in predict.")] = None,
    trees: Annotated[
        bool | None,
        typer.Option("--trees/--no-trees", help="Draft trees too, or chains only."),
    ] = None,
    stack: Annotated[Text, typer.Option("--stack", help="vllm, sglang, trtllm, a path.")] = None,
    objective: Annotated[Text, typer.Option("--objective", help="cost, gpus or energy.")] = None,
    budget_usd_per_hour: Annotated[
        Text, typer.Option("--budget-usd-per-hour", help="Most that the fleet may cost.")
    ] = None,
    max_gpus: Annotated[Text, typer.Option("--max-gpus", help="Most GPUs.")] = None,
    available: Annotated[
        list[str] | None,
        typer.Option("--available", help="GPUs at hand, such as h100=16; may be repeated."),
    ] = None,
    prices: Prices = None,
    observed: Annotated[
        Path | None,
        typer.Option("--observed", help="Result of vllm bench, SGLang bench_serving or AIPerf."),
    ] = None,
    stated: Annotated[
        list[str] | None,
        typer.Option("--stated", help="What that file leaves out, such as prompt=1024."),
    ] = None,
    fitted: Annotated[
        Path | None,
        typer.Option("--fitted", help="Write the calibration fitted to --observed, for --stack."),
    ] = None,
    init: Annotated[
        bool, typer.Option("--init", help="Write a commented plan file, FILE or plan.toml.")
    ] = False,
    html: Html = None,
    markdown: Markdown = None,
    full: Full = False,
    json: Json = False,
) -> None:
    """The fleet to rent for a traffic and its limits, and how to launch it. Options win over FILE.

    Example: magicplan plan plan.toml --html plan.html
    """
    given = {name: value for name, value in locals().items() if value is not None}
    for name in NOT_FIELDS:
        given.pop(name, None)
    if init:
        _init(file or FIRST_FILE)
        return
    from magicplan.planning.plan import plan as answer
    from magicplan.report.document.terminal import progress

    with _spoken_as_options():
        question = _question(file, given, slo or [])
        with progress("planning", None):
            result = answer(question)
    if observed:
        result = _beside(result, observed, stated or [], fitted)
    elif stated or fitted:
        raise UsageError("--stated and --fitted go with --observed FILE")
    document = result.to_dict()
    if html or markdown or not json:
        from magicplan.report.pages import page_of

        hand_out((page_of(document, str(file or "plan")),), html, markdown, full=full, json=json)
    if json:
        from magicplan.report.document.terminal import print_json

        print_json(document)
    if not result.feasible:
        sys.exit(1)


def _beside(result: Plan, observed: Path, stated: list[str], fitted: Path | None) -> Plan:
    """The plan beside a benchmark run; the calibration fitted to it goes into `fitted`."""
    from magicplan.observed.beside_plan import with_observed
    from magicplan.report.document.files import write

    found = with_observed(result, observed, dict(_pair("--stated", text) for text in stated))
    if fitted and found.observed:
        write(fitted, found.observed.calibration_toml, option="--fitted")
        say(f"calibration written to {fitted}; use it with --stack {fitted} --gpu {found.best.gpu}")
    return found


def _init(path: Path) -> None:
    """A commented file where there is none. Raises UsageError where there is one."""
    from magicplan.planning.question import template
    from magicplan.report.document.files import write

    if path.exists():
        raise UsageError(f"--init: {path} exists; name another file or remove it")
    write(path, template(), option="--init")
    say(f"{path} written; edit it, then: magicplan plan {path}")


@contextmanager
def _spoken_as_options() -> Iterator[None]:
    """Say fields by the options that fill them."""
    try:
        yield
    except FieldError as problem:
        raise UsageError(problem.spoken(_option)) from None


def _option(field: str) -> str:
    """The option of a field of a plan: `gpus` is --gpu, a limit stands behind --slo."""
    name, _, key = field.partition(".")
    name = next((singular for singular, plural in LISTS.items() if plural == name), name)
    return f"{option(name)} {key.removesuffix('_seconds')}".rstrip()


def _question(file: Path | None, given: dict[str, Any], slo: list[str]) -> Any:
    """The file's question with the options put over it; a traffic replaces the file's, with the
    think time that goes with users and, for a trace, with the lengths."""
    from magicplan.commands.limits import parse_limit
    from magicplan.planning.question import question_of, read_plan
    from magicplan.planning.request import request_from

    options = {LISTS.get(name, name): _value(name, text) for name, text in given.items()}
    limits = dict(parse_limit(text, option="--slo") for text in slo)
    if file is None:
        if not options:
            raise UsageError(
                "plan needs a file or a traffic such as --requests-per-s 4; see --init"
            )
        return question_of(request_from(options | {"slo": limits}))
    cleared: dict[str, Any] = {}
    if any(name in options for name in TRAFFIC):
        cleared = dict.fromkeys(TRAFFIC)
        if "users" not in options:
            cleared["think_seconds"] = 0.0
        if "trace" in options:
            cleared |= {"prompt": None, "output": None}
    return read_plan(file, cleared | options | {"slo": limits})


def _value(name: str, text: Any) -> Any:
    """What a field takes, from the text of its option."""
    from magicplan.units import parse_count, parse_number

    option = "--" + name.replace("_", "-")
    if name == "trees":
        return text
    if name == "prices":
        return _prices(text)
    if name == "available":
        return {gpu: _gpus(count) for gpu, count in map(_gpu_pair, text)}
    if name in SHARES:
        return parse_number(text, option=option, zero=True)
    if name in LISTS:
        found = tuple(part.strip() for part in text.split(",") if part.strip())
        if not found:
            raise UsageError(f"{option} is empty: expected names, by commas")
        return found
    if name in NUMBERS:
        return parse_number(text, option=option)
    return parse_count(text, option=option) if name == "max_gpus" else text


def _prices(text: str) -> str | dict[str, float]:
    """The path of a TOML, or prices by GPU as in "h100=2.5,b200=4"."""
    if "=" not in text or Path(text).exists():
        return text
    return dict(_pair("--prices", part) for part in text.split(",") if part.strip())


def _pair(option: str, text: str) -> tuple[str, float]:
    """ "ttft_p95=1" as a name and its number."""
    from magicplan.units import parse_number

    name, found, value = text.partition("=")
    if not found or not name.strip():
        raise UsageError(f"{option} {text!r}: expected a name and a number, such as ttft_p95=1")
    return name.strip(), parse_number(value, option=f"{option} {name.strip()}")


def fleet(
    files: Annotated[list[Path], typer.Argument(help="Plan files, one a workload.")],
    available: Annotated[
        list[str] | None,
        typer.Option("--available", help="GPUs at hand, such as h100=16; may be repeated."),
    ] = None,
    prices: Prices = None,
    html: Html = None,
    markdown: Markdown = None,
    json: Json = False,
) -> None:
    """The cheapest mix of GPUs that carries several workloads, each within its own limits.

    Every plan file may name its own model; which replicas serve whom is found by integer
    programming. Exit status 1 where no mix does.

    Example: magicplan fleet chat.toml rag.toml --available h100=16 --available l40s=32
    """
    from magicplan.planning.mixed_fleet import mixed_fleet
    from magicplan.planning.plan import plan as answer
    from magicplan.planning.question import read_plan
    from magicplan.planning.request import stock_of
    from magicplan.report.document.terminal import progress

    with _spoken_as_options():
        stock = stock_of({gpu: _gpus(count) for gpu, count in map(_gpu_pair, available or [])})
        over = {"prices": _prices(prices)} if prices else {}
        questions = [read_plan(path, over) for path in files]
        with progress("planning", len(questions)) as done:
            found = []
            for question in questions:
                found.append(answer(question))
                done()
        result = mixed_fleet(found, stock or None)
    document = result.to_dict()
    if html or markdown or not json:
        from magicplan.report.pages import page_of

        pages = [page_of(document, "fleet")]
        if html or markdown:
            both = zip(found, files, strict=True)
            alone = [page_of(plan.to_dict(), str(path)) for plan, path in both]
            pages += [replace(page, title=f"{page.title}, planned alone") for page in alone]
        hand_out(tuple(pages), html, markdown, json=json)
    if json:
        from magicplan.report.document.terminal import print_json

        print_json(document)
    if not result.feasible:
        sys.exit(1)


def _gpu_pair(text: str) -> tuple[str, str]:
    gpu, found, count = text.partition("=")
    if not found or not gpu.strip():
        raise UsageError(f"--available {text!r}: expected a GPU and a count, such as h100=16")
    return gpu.strip(), count


def _gpus(text: str) -> int:
    from magicplan.units import parse_count

    return parse_count(text, option="--available", low=0)


def report(
    runs: Annotated[list[Path], typer.Argument(help="JSON files that magicplan wrote.")],
    html: Html = None,
    markdown: Markdown = None,
) -> None:
    """Results of plan, predict, sweep, drafts, tree, replay and validate as one report.

    Example: magicplan report run.json sweep.json --html report.html
    """
    from magicplan.report.pages import pages_of

    hand_out(tuple(page for path in runs for page in pages_of(path)), html, markdown)
