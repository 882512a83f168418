"""What versions of serving engines can express, from `engines/*.toml`."""

from __future__ import annotations

import math
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from magicplan.errors import UsageError

TABLES = Path(__file__).parent / "engines"
NEWEST = (math.inf,)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Entry:
    """A draft method or a capability, the versions that have it, and where that is written."""

    what: str
    """One of our draft methods, or a capability; `engines/README.md` lists them."""
    source: str
    url: str
    seen: str
    name: str = ""
    """What the engine calls the method."""
    option: str = ""
    """What its flag for a format takes."""
    methods: tuple[str, ...] = ()
    """Methods that the capability holds for; () for all."""
    since: str = ""
    before: str = ""
    """The first version that has it no more."""
    branch: str = ""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Engine:
    """An engine of one version: what it can do, and what only other versions can."""

    name: str
    asked: str
    entries: tuple[Entry, ...]
    elsewhere: tuple[Entry, ...]

    @property
    def methods(self) -> dict[str, str]:
        """Our methods that it knows, and what it calls them."""
        return {entry.what: entry.name for entry in self.entries if entry.name}

    def has(self, what: str, method: str = "") -> Entry | None:
        """The entry of a method or a capability, if this version has it (for that method)."""
        for entry in self.entries:
            if entry.what == what and (not entry.methods or method in entry.methods):
                return entry
        return None

    def lacks(self, what: str, method: str = "") -> str:
        """Which versions have what this one has not, as the end of a sentence; may be empty."""
        for entry in self.elsewhere:
            if entry.what == what and (not entry.methods or method in entry.methods):
                span = f"from {entry.since} on" if entry.since else f"on branch {entry.branch}"
                if entry.before:
                    span = f"from {entry.since} up to {entry.before}"
                return f" ({self.name} can {span}: {entry.source})"
        return ""

    def cite(self, *used: str) -> str:
        """Where everything named is written."""
        found = [entry.source for entry in self.entries if entry.what in used]
        return f"{self.asked}: {'; '.join(dict.fromkeys(found))}"


def engines() -> tuple[str, ...]:
    """Engines that have a table."""
    return tuple(sorted((path.stem for path in TABLES.glob("*.toml")), reverse=True))


@cache
def entries(name: str) -> tuple[Entry, ...]:
    """Everything that an engine's table says."""
    document = tomllib.loads((TABLES / f"{name}.toml").read_text(encoding="utf-8"))
    return tuple(
        Entry(**(row | {"methods": tuple(row.get("methods", ()))})) for row in document["entries"]
    )


@cache
def load(text: str) -> Engine:
    """`vllm` for the newest version known, `vllm@0.19.0`, or a branch as in `vllm@pr48944`.

    Raises UsageError for an engine or version that is not known.
    """
    name, _, version = text.partition("@")
    if name not in engines():
        raise UsageError(f"--settings {text}: expected one of {', '.join(engines())}")
    rows = entries(name)
    branch = version if any(row.branch == version for row in rows if row.branch) else ""
    wanted = _number(text, version) if version and not branch else NEWEST
    oldest = min((row.since for row in rows if row.since), key=lambda since: _number(text, since))
    if wanted < _number(text, oldest):
        raise UsageError(f"--settings {text}: the oldest version known is {oldest}")

    def there(row: Entry) -> bool:
        if row.branch:
            return row.branch == branch
        gone = bool(row.before) and wanted >= _number(text, row.before)
        return not gone and wanted >= _number(text, row.since)

    return Engine(
        name=name,
        asked=text,
        entries=tuple(row for row in rows if there(row)),
        elsewhere=tuple(row for row in rows if not there(row)),
    )


def _number(text: str, version: str) -> tuple[float, ...]:
    """A release number for comparison; suffixes such as .post1 or rc2 are left out."""
    parts = version.removeprefix("v").split(".")
    numbers = []
    for part in parts:
        if not part.isdigit():
            break
        numbers.append(int(part))
    if len(numbers) < 2:
        raise UsageError(f"--settings {text}: version {version!r} is no release as in 0.19.0")
    return tuple(numbers + [0] * (3 - len(numbers)))
