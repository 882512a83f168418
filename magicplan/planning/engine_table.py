"""What versions of serving engines can express, from `engines/*.toml`."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from magicplan.errors import UsageError

TABLES = Path(__file__).parent / "engines"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EngineVersion:
    """A range of versions, or a named branch: what it can do, and where that is written."""

    source: str
    url: str
    seen: str
    since: str = ""
    name: str = ""
    batch_schedule: bool = False
    """A draft length by batch size."""
    context_schedule: bool = False
    """A draft length by batch size and context."""
    token_tree: bool = False
    """A fixed tree of any shape."""
    dynamic_tree: bool = False
    """A tree of a given size whose shape the engine ranks in every round."""
    adaptive: tuple[str, ...] = ()
    """Methods whose draft length follows the accept length at run time."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Engine:
    """An engine of one version: its name, what it calls our methods, and what it can do."""

    name: str
    asked: str
    methods: dict[str, str]
    can: EngineVersion


def engines() -> tuple[str, ...]:
    """Engines that have a table."""
    return tuple(sorted((path.stem for path in TABLES.glob("*.toml")), reverse=True))


@cache
def _table(name: str) -> tuple[dict[str, str], tuple[EngineVersion, ...]]:
    document = tomllib.loads((TABLES / f"{name}.toml").read_text(encoding="utf-8"))
    versions = tuple(
        EngineVersion(**(row | {"adaptive": tuple(row.get("adaptive", ()))}))
        for row in document["versions"]
    )
    return document["methods"], versions


def versions(name: str) -> tuple[EngineVersion, ...]:
    """All of an engine's entries, newest first."""
    return _table(name)[1]


def load(text: str) -> Engine:
    """`vllm` for the newest version known, `vllm@0.19.0`, or a branch as in `vllm@pr48944`.

    Raises UsageError for an engine or version that is not known.
    """
    name, _, version = text.partition("@")
    if name not in engines():
        raise UsageError(f"--settings {text}: expected one of {', '.join(engines())}")
    methods, rows = _table(name)
    released = [row for row in rows if row.since]
    if not version:
        found = released[0]
    elif branch := [row for row in rows if row.name == version]:
        found = branch[0]
    else:
        wanted = _number(text, version)
        older = [row for row in released if _number(text, row.since) <= wanted]
        if not older:
            raise UsageError(f"--settings {text}: the oldest version known is {released[-1].since}")
        found = older[0]
    return Engine(name=name, asked=text, methods=methods, can=found)


def _number(text: str, version: str) -> tuple[int, ...]:
    """A release number for comparison; suffixes such as .post1 or rc2 are left out."""
    parts = version.removeprefix("v").split(".")
    numbers = []
    for part in parts:
        if not part.isdigit():
            break
        numbers.append(int(part))
    if len(numbers) < 2:
        raise UsageError(f"--settings {text}: version {version!r} is no release as in 0.19.0")
    return tuple(numbers)
