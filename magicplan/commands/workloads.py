"""Commands about one workload or a grid: what binds it, and what speculation makes of it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from magicplan.commands.options import Full, Json, Options, request_of, say, workload
from magicplan.commands.output import answer as put
from magicplan.commands.output import put_figure
from magicplan.errors import UsageError


@workload()
def predict(options: Options, full: Full = False, json: Json = False) -> None:
    """One workload: what binds the step, the best draft length, speedup, memory, break-evens.

    Example: magicplan predict --gpu a100 --batch 128 --ctx 64k
    """
    from magicplan.prediction.predict import answered

    put(answered(request_of(options, grid=False)).to_dict(), json=json, full=full)


@workload(batch="1..256*4", ctx="4k..128k*2")
def sweep(
    options: Options,
    json: Json = False,
    csv: Annotated[bool, typer.Option("--csv", help="Print CSV, a row a cell and GPU.")] = False,
    settings: Annotated[
        str | None,
        typer.Option("--settings", help="Print settings of vllm, vllm@0.19.0, sglang, ...."),
    ] = None,
    figure: Annotated[
        Path | None, typer.Option("--figure", help="Draw heat maps into this PNG or SVG.")
    ] = None,
    choice: Annotated[
        bool, typer.Option("--choice", help="Choose among all drafts, chains and trees.")
    ] = False,
) -> None:
    """Predict over batch x ctx (x gpu, comma-separated): table, CSV, JSON, heat maps.

    Example: magicplan sweep --gpu h100 --batch 1..256*4 --ctx 4k..128k*2
    """
    names = [name for name in options["gpu"].split(",") if name]
    if not names:
        raise UsageError("--gpu is empty: expected accelerator names")
    if json and csv:
        raise UsageError("--json and --csv exclude each other")
    if choice:
        if csv or len(names) > 1:
            raise UsageError("--choice is for one --gpu, without --csv")
        _choice(options, settings, json, figure)
        return
    from magicplan.prediction.choice.contenders import settled
    from magicplan.prediction.predict import answered
    from magicplan.report import sweep as report

    if settings and len(names) > 1:
        raise UsageError("--settings is for one accelerator: give one --gpu")
    requests = [request_of(options | {"gpu": name}, grid=True) for name in names]
    results = [answered(settled(request) if settings else request) for request in requests]
    if settings:
        from magicplan.engines.nearest import settings as settings_of
        from magicplan.report.settings import as_dict

        put(as_dict(settings_of(results[0], settings)), json=json)
        return
    if csv:
        if figure:
            put_figure(report.as_dict(results), figure)
        sys.stdout.write(report.as_csv(results))
    else:
        put(report.as_dict(results), json=json, figure=figure)


@workload(batch="1..256*4", ctx="4k..64k*4", draft="auto")
def schedule(options: Options, json: Json = False) -> None:
    """Draft lengths by batch and context as settings of the --stack, for a draft that exists.

    Example: magicplan schedule --gpu h100 --model qwen3-8b --stack vllm
    """
    from magicplan.engines.existing import schedule_settings
    from magicplan.report.settings import as_dict

    request = request_of(options, grid=True)
    put(as_dict(schedule_settings(request, request.stack)), json=json)


def _choice(options: Options, settings: str | None, json: bool, figure: Path | None) -> None:
    """The best draft of every cell, or the settings of an engine that come nearest to it."""
    request = request_of(options, grid=True)
    if settings:
        from magicplan.engines.choice_settings import choice_settings
        from magicplan.report.settings import as_dict

        put(as_dict(choice_settings(request, settings)), json=json)
        return
    from magicplan.prediction.choose import choose_everywhere

    put(choose_everywhere(request).to_dict(), json=json, figure=figure)


def _all_drafts(options: Options, why: str) -> None:
    """Say that a draft was named in vain."""
    named = [name for name in ("draft_kv", "draft_dtype") if options.get(name)]
    if named or options.get("draft", "auto") != "auto":
        say(f"--draft, --draft-kv and --draft-dtype are not used: {why}")


@workload(batch="1..256*4", ctx="1k..64k*4")
def regimes(
    options: Options,
    figure: Annotated[
        Path | None, typer.Option("--figure", help="Draw the map into this PNG or SVG.")
    ] = None,
    json: Json = False,
) -> None:
    """What binds a step, and the best draft length of four kinds of drafter, over batch x ctx.

    Example: magicplan regimes --gpu h100 --stack ideal --ctx 1k..64k*4
    """
    from magicplan.prediction.regimes import regimes as maps

    _all_drafts(options, "regimes draws one drafter of each kind")
    put(maps(request_of(options, grid=True)).to_dict(), json=json, figure=figure)


@workload()
def explain(options: Options, json: Json = False) -> None:
    """The closed forms behind a prediction, derived, with this workload's numbers put in.

    Example: magicplan explain --gpu h100 --batch 32 --ctx 32k
    """
    from magicplan.prediction.closed_forms import closed_forms
    from magicplan.prediction.predict import answered
    from magicplan.report.formulas.explain import as_dict

    result = answered(request_of(options, grid=False))
    put(as_dict(closed_forms(result)), json=json)


@workload()
def drafts(options: Options, json: Json = False) -> None:
    """Every draft method and KV budget on one workload, best first, with intervals.

    Example: magicplan drafts --gpu h100 --batch 32 --ctx 32k
    """
    from magicplan.prediction.compare_drafts import compare

    _all_drafts(options, "drafts compares all of them")
    put(compare(request_of(options, grid=False)).to_dict(), json=json)


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
    settings: Annotated[
        str | None, typer.Option("--settings", help="Print the tree as settings of an engine.")
    ] = None,
    given: Annotated[
        Path | None, typer.Option("--from", help="Value the trees of this file instead.")
    ] = None,
    json: Json = False,
) -> None:
    """The best Sequoia tree of a workload, or of every cell of a grid.

    Example: magicplan tree --adaptive --gpu h200 --ctx 1k..128k*2 --batch 1,8,64,256
    """
    from magicplan.prediction.adaptive_trees import (
        adaptive_trees,
        read_trees,
        value_trees,
        write_trees,
    )
    from magicplan.units import parse_count

    size = parse_count(max_size, option="--max-size")
    depth = parse_count(max_depth, option="--max-depth")
    if given:
        trees = read_trees(given)
        found = value_trees(request_of(options, grid=False), trees, max_depth=depth)
        put(found.to_dict(), json=json)
        return
    plan = adaptive_trees(request_of(options, grid=adaptive), max_size=size, max_depth=depth)
    if out:
        write_trees(out, plan.to_dict())
        say(f"trees written to {out}")
    if settings:
        from magicplan.engines.tree_settings import tree_settings
        from magicplan.report.settings import as_dict

        if figure:
            put_figure(plan.to_dict(), figure)
        put(as_dict(tree_settings(plan, settings, max_size=size, max_depth=depth)), json=json)
    else:
        put(plan.to_dict(), json=json, figure=figure)
