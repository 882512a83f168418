"""Serving stacks as a page: their calibrations by GPU, and what each version can run."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from packaging.version import Version

from magicplan.acceptance_specs.entry import entries as acceptance_entries
from magicplan.acceptance_specs.entry import methods
from magicplan.engine_specs.capabilities import ENGINES, Capability, EngineVersion, load
from magicplan.errors import FieldError, UnknownName, UsageError
from magicplan.hardware_specs import spelling
from magicplan.hardware_specs.calibration_files import CALIBRATIONS
from magicplan.hardware_specs.transfer import STACKS
from magicplan.report.document.page import Bullets, Grid, Page, Section


def calibrations(stack: str) -> dict[str, tuple[str, ...]]:
    """The versions that a stack was calibrated at, the newest first, by GPU."""
    found: dict[str, list[str]] = {}
    for path in CALIBRATIONS.glob(f"*_{stack}_*.toml"):
        gpu, _, version = path.stem.split("_")
        found.setdefault(gpu, []).append(version)
    return {gpu: tuple(sorted(found[gpu], key=Version, reverse=True)) for gpu in sorted(found)}


def stacks_page(name: str | None) -> Page:
    """All stacks, or one with what its version can run and where that is written."""
    if name is not None:
        return _one(name)
    grid = Grid(
        columns=("stack", "calibrated on (versions)", "drafts it can run, newest version"),
        rows=tuple((stack, _measured(stack), _drafts(stack)) for stack in STACKS),
        prose=True,
        note="magicplan stacks vllm@0.19.0 shows one version with its sources; --tasks lists the "
        "tasks that acceptance was measured on.",
    )
    return Page(
        title="Serving stacks",
        verdict=f"{len(STACKS)} serving stacks are known.",
        sections=(Section(title="Stacks", blocks=(grid,)),),
    )


def _measured(stack: str) -> str:
    found = calibrations(stack)
    if stack == "ideal":
        return "datasheet peaks, no launch or host time"
    return "; ".join(f"{gpu} ({', '.join(versions)})" for gpu, versions in found.items())


def _drafts(stack: str) -> str:
    if stack in ENGINES:
        return ", ".join(sorted(load(stack).methods))
    return "any" if stack == "ideal" else "no table of what its versions can run"


def _one(asked: str) -> Page:
    text = spelling.stack(asked)
    stack = text.partition("@")[0]
    if stack not in STACKS:
        raise UnknownName("stack", asked, STACKS, f"known: {', '.join(STACKS)}")
    measured = Grid(
        columns=("GPU", "versions calibrated, newest first"),
        rows=tuple((gpu, ", ".join(found)) for gpu, found in calibrations(stack).items()),
        prose=True,
        note="Other GPUs take the nearest relative's, with wider intervals; other versions the "
        "nearest older one.",
    )
    sections = [Section(title="Calibrations", blocks=(measured,))] if measured.rows else []
    if stack not in ENGINES:
        verdict = f"{text}: {_drafts(stack)}."
        return Page(title=f"Stack {text}", verdict=verdict, sections=tuple(sections))
    engine = _engine(text)
    sections += [
        _what("Can run", engine.capabilities),
        _what("In other versions", engine.elsewhere),
    ]
    sources = tuple(
        dict.fromkeys(f"{e.source}: {e.url}" for e in (*engine.capabilities, *engine.elsewhere))
    )
    sections.append(Section(title="Sources", blocks=(Bullets(lines=sources),)))
    return Page(
        title=f"Stack {text}",
        verdict=f"{text}{'' if '@' in text else ', newest version known,'} drafts with "
        f"{', '.join(sorted(engine.methods))}.",
        sections=tuple(s for s in sections if s.blocks),
    )


def _engine(text: str) -> EngineVersion:
    """An engine of one version. Raises UsageError for a version that is none."""
    try:
        return load(text)
    except FieldError as problem:
        raise UsageError(f"stack {problem.problem}") from None


def _what(title: str, rows: tuple[Capability, ...]) -> Section:
    grid = Grid(
        columns=("what", "engine's name", "for", "versions"),
        rows=tuple(
            (row.what, row.name or row.option or "-", ", ".join(row.methods) or "all", _span(row))
            for row in rows
        ),
        prose=True,
    )
    return Section(title=title, blocks=(grid,) if rows else ())


def _span(row: Capability) -> str:
    if row.branch:
        return f"branch {row.branch}"
    return f"{row.since} up to {row.before}" if row.before else f"{row.since} on"


def stacks_as_dict(name: str | None) -> dict[str, Any]:
    """The JSON of `magicplan stacks`. Raises UnknownName, UsageError for a version."""
    text = None if name is None else spelling.stack(name)
    wanted = STACKS if text is None else (text.partition("@")[0],)
    if text is not None and wanted[0] not in STACKS:
        raise UnknownName("stack", str(name), STACKS, f"known: {', '.join(STACKS)}")
    return {
        "schema": "magicplan.stacks/1",
        "stacks": [_as_dict(stack, text or stack) for stack in wanted],
    }


def _as_dict(stack: str, asked: str) -> dict[str, Any]:
    """One stack; what it runs is null where no table says."""
    engine = _engine(asked) if stack in ENGINES else None
    return {
        "name": stack,
        "asked": asked,
        "calibrations": {gpu: list(found) for gpu, found in calibrations(stack).items()},
        "runs": [asdict(entry) for entry in engine.capabilities] if engine else None,
        "elsewhere": [asdict(entry) for entry in engine.elsewhere] if engine else None,
    }


def tasks_as_dict() -> dict[str, Any]:
    """Every task that acceptance was measured on, however sources spell it, and its methods."""
    names: dict[str, str] = {}
    measured: dict[str, set[str]] = {}
    for method in methods():
        for entry in acceptance_entries(method):
            told = "".join(c for c in entry.task.lower() if c.isalnum())
            names.setdefault(told, entry.task)
            measured.setdefault(told, set()).add(method)
    return {
        "schema": "magicplan.tasks/1",
        "tasks": [
            {"task": names[told], "methods": sorted(measured[told])} for told in sorted(names)
        ],
    }


def tasks_page() -> Page:
    """The tasks that `--task` may name."""
    told = tasks_as_dict()["tasks"]
    grid = Grid(
        columns=("task", "measured with"),
        rows=tuple((row["task"], ", ".join(row["methods"])) for row in told),
        prose=True,
    )
    how = "--task takes any part of a name, without case; without it the middle task speaks."
    return Page(
        title="Tasks",
        verdict=f"Acceptance was measured on {len(told)} tasks.",
        sections=(Section(title="Tasks", blocks=(grid, Bullets(lines=(how,)))),),
    )
