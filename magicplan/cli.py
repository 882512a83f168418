"""The command line: words in, words out. Parses, calls one function, hands to the report."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from magicplan.errors import MagicplanError, UsageError

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Roofline planning for LLM decoding: what binds a step, and does speculation pay?",
)

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
    str, typer.Option("--acceptance", help="0.8, cond:0.8,0.7, marg:0.8,0.6, rank:FILE or auto.")
]
Task = Annotated[
    str | None, typer.Option("--task", help="Task that --acceptance auto should match.")
]
Gamma = Annotated[str, typer.Option("--gamma", help="Drafted tokens a round, or auto.")]
MaxGamma = Annotated[str, typer.Option("--max-gamma", help="Longest draft considered.")]
KvPasses = Annotated[
    str,
    typer.Option("--verify-kv-passes", help="How often verification reads the KV cache."),
]
WantSpeedup = Annotated[
    str | None, typer.Option("--want-speedup", help="Show the acceptance this speedup needs.")
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
    verify_kv_passes: KvPasses = "1",
    want_speedup: WantSpeedup = None,
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


def _request(options: dict[str, Any], *, grid: bool) -> Any:
    """A `Request` from the texts of the shared options. Raises BadQuantity, naming the option."""
    from magicplan.planning.request import Request
    from magicplan.units import parse_count, parse_grid, parse_number, parse_tokens

    def text(name: str) -> tuple[str, str]:
        return options[name], "--" + name.replace("_", "-")

    def count(name: str, low: int = 1) -> int:
        value, option = text(name)
        return parse_count(value, option=option, low=low)

    def count_or_auto(name: str, low: int = 1) -> int | str:
        return "auto" if options[name] == "auto" else count(name, low)

    names = "gpu model dtype kv_dtype stack draft draft_kv draft_dtype acceptance task"
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
        if value is not None:
            read[name] = parse_number(value, option=option)
    return Request(**read)


@app.command()
@workload()
def predict(options: Options, json: Json = False) -> None:
    """One workload: what binds the step, the best draft length, speedup, memory, break-evens.

    Example: magicplan predict --gpu a100 --batch 128 --ctx 64k
    """
    from magicplan.planning.predict import answer
    from magicplan.planning.request import resolve
    from magicplan.report import prediction as report
    from magicplan.report.terminal import print_json, stdout

    result = answer(resolve(_request(options, grid=False)))
    if json:
        print_json(result.to_dict())
    else:
        report.render(result, stdout())


@app.command()
@workload(batch="1..256*4", ctx="4k..128k*2")
def sweep(
    options: Options,
    json: Json = False,
    csv: Annotated[bool, typer.Option("--csv", help="Print CSV, a row a cell and GPU.")] = False,
    settings: Annotated[
        str | None, typer.Option("--settings", help="Print the schedule for vllm or sglang.")
    ] = None,
    figure: Annotated[
        Path | None, typer.Option("--figure", help="Draw heat maps into this PNG or SVG.")
    ] = None,
) -> None:
    """The same over batch x ctx (x gpu, comma-separated): table, CSV, JSON, heat map.

    Example: magicplan sweep --gpu h100 --batch 1..256*4 --ctx 4k..128k*2
    """
    from magicplan.planning.predict import answer
    from magicplan.planning.request import resolve
    from magicplan.report import sweep as report
    from magicplan.report.terminal import print_json, stdout

    names = [name for name in options["gpu"].split(",") if name]
    if not names:
        raise UsageError("--gpu is empty: expected accelerator names")
    if json and csv:
        raise UsageError("--json and --csv exclude each other")
    results = [answer(resolve(_request(options | {"gpu": name}, grid=True))) for name in names]
    if settings:
        if len(results) > 1:
            raise UsageError("--settings is for one accelerator: give one --gpu")
        from magicplan.planning.settings import settings as settings_of

        report.render_settings(settings_of(results[0], settings), stdout())
        return
    if figure:
        report.draw(results, figure)
        _say(f"heat maps written to {figure}")
    if json:
        print_json(report.as_dict(results))
    elif csv:
        sys.stdout.write(report.as_csv(results))
    else:
        report.render(results, stdout())


@app.command()
@workload(batch="1..256*4", ctx="1k..64k*4")
def regimes(
    options: Options,
    figure: Annotated[
        Path | None, typer.Option("--figure", help="Draw the map into this PNG or SVG.")
    ] = None,
    json: Json = False,
) -> None:
    """What binds a step, and the best draft length of three kinds of drafter, over batch x ctx.

    Example: magicplan regimes --gpu h100 --gpus 8 --ctx 1k..64k*4
    """
    from magicplan.planning.candidates import family_drafts
    from magicplan.planning.predict import answer
    from magicplan.planning.request import resolve
    from magicplan.report import regimes as report
    from magicplan.report.sweep import as_dict
    from magicplan.report.terminal import print_json, stdout

    model = _request(options, grid=True).model
    maps = [
        answer(resolve(_request(options | choice, grid=True))) for choice in family_drafts(model)
    ]
    if figure:
        report.draw(maps, figure)
        _say(f"map drawn into {figure}")
    if json:
        print_json(as_dict(maps))
    else:
        report.render(maps, stdout())


@app.command()
@workload()
def explain(options: Options, json: Json = False) -> None:
    """The closed forms behind a prediction, derived, with this workload's numbers put in.

    Example: magicplan explain --gpu h100 --batch 32 --ctx 32k
    """
    from magicplan.planning.predict import answer
    from magicplan.planning.request import resolve
    from magicplan.report import explain as report
    from magicplan.report.terminal import print_json, stdout

    result = answer(resolve(_request(options, grid=False)))
    if json:
        print_json(report.as_dict(result))
    else:
        report.render(result, stdout())


@app.command()
@workload()
def drafts(options: Options, json: Json = False) -> None:
    """Every draft method and KV budget on one workload, best first, with intervals.

    Example: magicplan drafts --gpu h100 --batch 32 --ctx 32k
    """
    from magicplan.planning.compare import compare
    from magicplan.report import drafts as report
    from magicplan.report.terminal import print_json, stdout

    result = compare(_request(options, grid=False))
    if json:
        print_json(report.as_dict(result))
    else:
        report.render(result, stdout())


@app.command()
@workload(ctx="4k", acceptance="auto")
def tree(
    options: Options,
    adaptive: Annotated[
        bool, typer.Option("--adaptive", help="One tree for every batch and context of lists.")
    ] = False,
    max_size: Annotated[str, typer.Option("--max-size", help="Most nodes, the root too.")] = "64",
    max_depth: Annotated[str, typer.Option("--max-depth", help="Most levels.")] = "12",
    out: Annotated[Path | None, typer.Option("--out", help="Write the trees to this JSON.")] = None,
    figure: Annotated[
        Path | None, typer.Option("--figure", help="Draw the trees into this PNG or SVG.")
    ] = None,
    json: Json = False,
) -> None:
    """The best Sequoia tree of a workload, or of every cell of a grid.

    Example: magicplan tree --adaptive --gpu h200 --ctx 1k..128k*2 --batch 1,8,64,256
    """
    from magicplan.planning.compare import adaptive_trees
    from magicplan.report import trees as report
    from magicplan.report.terminal import print_json, stdout
    from magicplan.tree_files import write_trees
    from magicplan.units import parse_count

    size = parse_count(max_size, option="--max-size")
    depth = parse_count(max_depth, option="--max-depth")
    plan = adaptive_trees(_request(options, grid=adaptive), max_size=size, max_depth=depth)
    if figure:
        report.draw(plan, figure)
        _say(f"trees drawn into {figure}")
    if out:
        write_trees(out, report.as_dict(plan))
        _say(f"trees written to {out}")
    if json:
        print_json(report.as_dict(plan))
    else:
        report.render(plan, stdout())


@app.command()
def calibrate(
    kernels: Annotated[
        Path, typer.Option("--kernels", help="Folder of kernel tables, or an aiconfigurator tree.")
    ],
    out: Annotated[
        Path | None, typer.Option("--out", help="Write one TOML a calibration into this folder.")
    ] = None,
    source: Annotated[
        str, typer.Option("--source", help="Where the tables come from, for the record.")
    ] = "",
    json: Json = False,
) -> None:
    """Fit kernel times of GPUs and serving stacks; the TOMLs then serve as --stack PATH.

    Example: magicplan calibrate --kernels measurements --out mine
    """
    from magicplan.report import calibrations as report
    from magicplan.report.terminal import print_json, progress, stdout
    from magicplan.validate.calibrate import document, fit_groups, write
    from magicplan.validate.kernel_tables import read

    with progress("reading tables", None):
        tables = read(kernels)
    with progress("fitting", len(tables.groups())) as done:
        groups = fit_groups(tables, lambda _: done())
    if out:
        paths = write(out, [document(g, groups, source or str(kernels.name)) for g in groups])
        _say(f"{len(paths)} calibrations written into {out}")
    if json:
        print_json(report.as_dict(groups))
    else:
        report.render(groups, stdout())


@app.command()
def replay(
    files: Annotated[list[Path], typer.Argument(help="CSV files of published measurements.")],
    stack: Annotated[
        str | None, typer.Option("--stack", help="Predict every row as this stack.")
    ] = None,
    figure: Annotated[
        Path | None, typer.Option("--figure", help="Draw predicted against measured, PNG or SVG.")
    ] = None,
    json: Json = False,
) -> None:
    """Predictions against published measurements: errors by source, signs, regret, worst rows.

    Example: magicplan replay published/magicdec.csv published/plain_decode.csv
    """
    from magicplan.report import replay as report
    from magicplan.report.terminal import print_json, progress, stdout
    from magicplan.validate import published
    from magicplan.validate.replay import replay as run

    found = published.read(files)
    with progress("predicting", len(found.cases)) as done:
        outcomes, refused = run(found.cases, {"stack": stack} if stack else None, done)
    skipped = [*found.skipped, *refused]
    if not outcomes:
        reasons = "; ".join(sorted({s.reason for s in skipped})[:3])
        raise UsageError(f"no row of {len(skipped)} can be predicted: {reasons}")
    if figure:
        report.draw(outcomes, figure)
        _say(f"scatter plot drawn into {figure}")
    if json:
        print_json(report.as_dict(outcomes, skipped))
    else:
        report.render(outcomes, skipped, stdout())


Name = Annotated[str | None, typer.Argument(help="One of them, in full.")]


@app.command()
def gpus(name: Name = None, json: Json = False) -> None:
    """What is known of accelerators, with sources.

    Example: magicplan gpus h100
    """
    from magicplan.report import facts
    from magicplan.report.terminal import print_json, stdout

    if json:
        print_json(facts.gpus_as_dict(name))
    else:
        facts.render_gpus(name, stdout())


@app.command()
def models(name: Name = None, json: Json = False) -> None:
    """What is known of models, with sources.

    Example: magicplan models llama-3.1-8b
    """
    from magicplan.report import facts
    from magicplan.report.terminal import print_json, stdout

    if json:
        print_json(facts.models_as_dict(name))
    else:
        facts.render_models(name, stdout())


def main() -> None:
    """Run the command line; every error of ours is one sentence on stderr."""
    try:
        app(args=sys.argv[1:] or ["--help"], standalone_mode=False)
    except MagicplanError as problem:
        _say(f"error: {problem}")
        sys.exit(problem.exit_code)
    except typer.exceptions.TyperException as problem:
        _say(f"error: {problem.format_message().rstrip('.')}")
        sys.exit(2)
    except (typer.Abort, KeyboardInterrupt):
        _say("stopped")
        sys.exit(130)


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
