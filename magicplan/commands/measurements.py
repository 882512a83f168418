"""Commands that hold predictions against measurements, or fit calibrations to them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from magicplan.commands.options import Json, say
from magicplan.commands.output import answer
from magicplan.errors import UsageError


def calibrate(
    kernels: Annotated[
        Path | None,
        typer.Option("--kernels", help="Folder of kernel tables, or an aiconfigurator tree."),
    ] = None,
    device: Annotated[
        str | None, typer.Option("--device", help="Measure and fit this device: cpu or cuda.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Write one TOML a calibration into this folder.")
    ] = None,
    source: Annotated[
        str, typer.Option("--source", help="Where the tables come from, for the record.")
    ] = "",
    json: Json = False,
) -> None:
    """Fit kernel times of GPUs and serving stacks, or this device; TOMLs serve as --stack PATH.

    Example: magicplan calibrate --kernels measurements --out mine

    Example: magicplan calibrate --device cpu --out mine
    """
    if (kernels is None) == (device is None):
        raise UsageError("calibrate takes either --kernels FOLDER or --device cpu|cuda")
    if kernels is None:
        from magicplan.commands.validation import calibrate_device

        calibrate_device(str(device), out, json=json)
        return
    from magicplan.calibrate.groups import document, fit_groups, refuse_unfitted, write
    from magicplan.calibrate.kernel_tables import read
    from magicplan.report.calibrations import groups_as_dict
    from magicplan.report.document.terminal import progress

    with progress("reading tables", None):
        tables = read(kernels)
    with progress("fitting", len(tables.groups())) as done:
        groups = fit_groups(tables, lambda _: done())
    refuse_unfitted(groups)
    if out:
        paths = write(out, [document(g, groups, source or str(kernels.name)) for g in groups])
        say(f"{len(paths)} calibrations written into {out}")
    answer(groups_as_dict(groups), json=json)


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
    from magicplan.replay import published
    from magicplan.replay.account import as_dict
    from magicplan.replay.outcomes import replay as run
    from magicplan.report.document.terminal import progress

    found = published.read(files)
    with progress("predicting", len(found.cases)) as done:
        outcomes, refused = run(found.cases, {"stack": stack} if stack else None, done)
    skipped = [*found.skipped, *refused]
    if not outcomes:
        reasons = "; ".join(sorted({s.reason for s in skipped})[:3])
        raise UsageError(f"no row of {len(skipped)} can be predicted: {reasons}")
    answer(as_dict(outcomes, skipped), json=json, figure=figure)
