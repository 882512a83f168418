"""Commands that run the real decoder on this device."""

from __future__ import annotations

import shlex
import sys
import tempfile
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from magicplan.commands.options import Json, say
from magicplan.commands.output import answer
from magicplan.errors import MissingExtra, UsageError

if TYPE_CHECKING:
    from magicplan.validate.session import Session

RUN_FILE = "run.jsonl"


def validate(
    device: Annotated[
        str | None, typer.Option("--device", help="cpu or cuda; by default cuda where it is.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", help="A preset, or a Hugging Face folder; random without weights."),
    ] = None,
    grid: Annotated[
        str, typer.Option("--grid", help="quick, full, or a CSV file of batch,ctx[,gamma].")
    ] = "quick",
    acceptance: Annotated[
        str | None,
        typer.Option(
            "--acceptance", help="checkpoint, dialled:0.8 or simulated:0.8 (timing only)."
        ),
    ] = None,
    draft: Annotated[
        str, typer.Option("--draft", help="self, ngram, or a smaller model or its folder.")
    ] = "self",
    draft_kv: Annotated[
        str, typer.Option("--draft-kv", help="streaming:N or snapkv:N.")
    ] = "streaming:512",
    gamma: Annotated[
        str | None, typer.Option("--gamma", help="Draft lengths, such as 4, 1,2,4 or 1..8.")
    ] = None,
    tree: Annotated[
        str | None, typer.Option("--tree", help="A file of magicplan tree, measured everywhere.")
    ] = None,
    dtype: Annotated[
        str | None, typer.Option("--dtype", help="bf16, fp16 or fp32; by default the fastest.")
    ] = None,
    backend: Annotated[
        str | None, typer.Option("--backend", help="native, torch, triton, varlen or flashinfer.")
    ] = None,
    text: Annotated[
        str | None,
        typer.Option("--text", help="Your prompts, for --acceptance checkpoint; a UTF-8 file."),
    ] = None,
    tolerance: Annotated[
        str | None,
        typer.Option("--tolerance", help="Error that passes; by default the run's own, or 0.15."),
    ] = None,
    threads: Annotated[str, typer.Option("--threads", help="CPU threads.")] = "1",
    seed: Annotated[str, typer.Option("--seed", help="Of weights, caches and draws.")] = "0",
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Keep run file, HTML, picture and TOMLs; continues a run."),
    ] = None,
    from_: Annotated[
        Path | None, typer.Option("--from", help="Compare a stored run; nothing is measured.")
    ] = None,
    json: Json = False,
) -> None:
    """Run the real decoder here and hold what it does against what was predicted before.

    Checks that speculative output is exact, measures this device's peaks, calibrates on small
    workloads, writes its prediction of other and larger ones, measures them, and compares. Exit
    status 1 where a point misses the tolerance. Under torchrun its processes share the model
    (tensor parallelism): torchrun --nproc-per-node 2 -m magicplan validate.

    Example: magicplan validate --grid quick --acceptance simulated:0.8 --out check
    """
    from magicplan.units import parse_number

    room = None if tolerance is None else parse_number(tolerance, option="--tolerance")
    from magicplan.validate.compare import compare, compare_file

    if from_ is not None:
        found = compare_file(from_, room)
    else:
        asked = _asked(
            device=device, model=model, grid=grid, acceptance=acceptance, draft=draft,
            draft_kv=draft_kv, gamma=gamma, tree=tree, dtype=dtype, backend=backend,
            text=text, threads=threads, seed=seed,
        )  # fmt: skip
        run = _measured(asked, out, room)
        if run is None:
            return
        found = compare(run, run.tolerance if room is None else room)
    _report(found, out, json=json)


def _asked(threads: str, seed: str, **words: str | None) -> Any:
    """The question with its numbers read; needs torch, whose lack is said first."""
    from magicplan.units import parse_count

    counts = {
        "threads": parse_count(threads, option="--threads"),
        "seed": parse_count(seed, option="--seed", low=0),
    }
    if find_spec("torch") is None or find_spec("safetensors") is None:
        raise MissingExtra("running the decoder", "validate")
    from magicplan.validate.settings import Asked

    return Asked(**words, **counts)  # type: ignore[arg-type]


def _measured(asked: Any, out: Path | None, tolerance: float | None) -> Any:
    """A finished run, resumed where the folder holds the beginning of one; of several ranks that
    torchrun started, the first has it."""
    import torch

    from magicplan.report.document.terminal import progress
    from magicplan.validate.decoder.tensor_parallel import joined
    from magicplan.validate.prepare import session
    from magicplan.validate.question import question
    from magicplan.validate.settings import resolve_settings

    settings = resolve_settings(asked)
    folder = out or Path(tempfile.mkdtemp(prefix="magicplan-"))
    try:
        with joined(torch.device(settings.device)) as ranks:
            settings, folder = ranks.first((replace(settings, ranks=ranks.count), folder))
            run_session: Session = session(question(settings), ranks)
            told = {} if tolerance is None else {"tolerance": tolerance}
            file = run_session.open(folder / RUN_FILE, **told)
            shown = progress("validating", run_session.steps) if ranks.rank == 0 else None
            with shown or nullcontext(lambda: None) as done:
                run = run_session.run(file, lambda _: done())
            return run if ranks.rank == 0 else None
    except KeyboardInterrupt:
        _stopped(folder)


def _stopped(folder: Path) -> NoReturn:
    """After Ctrl-C."""
    say(f"stopped; what was measured is kept, continue with: {_again(folder)}")
    sys.exit(130)


def _again(folder: Path) -> str:
    """The command line that continues this run: its own, with the folder it writes to."""
    words = sys.argv[1:]
    if "--out" not in words and not any(w.startswith("--out=") for w in words):
        words = [*words, "--out", str(folder)]
    return shlex.join(["magicplan", *words])


def _report(found: Any, out: Path | None, *, json: bool) -> None:
    """The comparison on stdout and in the folder, and the exit status."""
    from magicplan.validate.account import as_dict

    answer(as_dict(found), json=json)
    if out:
        _written(found, out)
    if not found.passed:
        raise typer.Exit(1)


def _written(found: Any, out: Path) -> None:
    """What goes into the folder beside the run; nothing measured hangs on an optional part."""
    from magicplan.validate.device_files import write_tomls

    for files in (partial(_report_files, found, out), partial(write_tomls, out, found.run)):
        try:
            say(f"written into {out}: {', '.join(path.name for path in files())}")
        except MissingExtra as problem:
            say(f"{problem}; then: magicplan validate --from {out / RUN_FILE} --out {out}")


def _report_files(found: Any, folder: Path) -> list[Path]:
    """The validation as one HTML page, and its figures, where it has any, as a PNG. Raises
    MissingExtra without the extra `report`, UsageError where they cannot be written."""
    from magicplan.report.document import html, pictures
    from magicplan.report.document.files import write
    from magicplan.report.pages import page_of
    from magicplan.validate.account import as_dict

    page = page_of(as_dict(found), RUN_FILE)
    report, picture = folder / "report.html", folder / "predicted-against-measured.png"
    text = html.render((page,))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise UsageError(f"--out {folder}: cannot be written ({problem.strerror})") from None
    write(report, text, option="--out")
    if not pictures.plots_of(page):
        return [report]
    pictures.write(page, picture, option="--out")
    return [report, picture]


def calibrate_device(device: str, out: Path | None, *, json: bool) -> None:
    """Measure and fit this device; its TOMLs serve as --gpu and --stack."""
    from magicplan.report.calibrations import device_as_dict
    from magicplan.report.document.terminal import progress

    asked = _asked("1", "0", device=device)
    from magicplan.validate.device_files import write_tomls
    from magicplan.validate.measure.clock import clock_of
    from magicplan.validate.prepare import session
    from magicplan.validate.question import question
    from magicplan.validate.settings import resolve_settings

    asked_for = question(resolve_settings(asked))
    folder = out or Path(tempfile.mkdtemp(prefix="magicplan-"))
    try:
        run_session: Session = session(asked_for)
        file = run_session.open(folder / "calibration.jsonl")
        with progress("calibrating", run_session.calibration_steps) as done:
            run_session.check_exactness(file)
            done()
            run_session.calibrate(file, clock_of(asked_for.settings.device), lambda _: done())
    except KeyboardInterrupt:
        _stopped(folder)
    accelerator, fitted = run_session.fit(file.run)
    if out:
        paths = write_tomls(out, file.run, fitted.calibration)
        say(f"written into {out}: {', '.join(path.name for path in paths)}")
    answer(device_as_dict(accelerator, fitted), json=json)
