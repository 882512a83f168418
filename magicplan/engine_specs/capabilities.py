"""What versions of serving engines can run, from `versions/*.toml`: drafts, trees, formats."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from packaging.version import InvalidVersion, Version

from magicplan.errors import FieldError, UsageError
from magicplan.hardware_specs import spelling
from magicplan.model_specs.shape import ModelShape
from magicplan.roofline.drafts import Draft
from magicplan.roofline.tree_speculation import TreeKind

TABLES = Path(__file__).parent / "versions"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Capability:
    """A draft method or a capability, the versions that have it, and where that is written."""

    what: str
    """One of our draft methods, or a capability; `versions/README.md` lists them."""
    source: str
    url: str
    seen: str
    name: str = ""
    """What the engine calls the method."""
    option: str = ""
    """The value that the engine's flag for a format takes."""
    methods: tuple[str, ...] = ()
    """Methods that the capability holds for; () for all."""
    since: str = ""
    before: str = ""
    """The first version that has it no more."""
    branch: str = ""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EngineVersion:
    """An engine of one version: what it can do, and what only other versions can."""

    name: str
    asked: str
    capabilities: tuple[Capability, ...]
    elsewhere: tuple[Capability, ...]

    @property
    def methods(self) -> dict[str, str]:
        """Our methods that it knows, and what it calls them."""
        return {entry.what: entry.name for entry in self.capabilities if entry.name}

    def has(self, what: str, method: str = "") -> Capability | None:
        """The entry of a method or a capability, if this version has it (for that method)."""
        for entry in self.capabilities:
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
        """The engine and the sources that document the capabilities named, each source once."""
        found = [entry.source for entry in self.capabilities if entry.what in used]
        return f"{self.asked}: {'; '.join(dict.fromkeys(found))}"


def engines() -> tuple[str, ...]:
    """Engines that have a table."""
    return tuple(sorted((path.stem for path in TABLES.glob("*.toml")), reverse=True))


@cache
def capabilities(name: str) -> tuple[Capability, ...]:
    """Everything that an engine's table says."""
    document = tomllib.loads((TABLES / f"{name}.toml").read_text(encoding="utf-8"))
    return tuple(
        Capability(**(row | {"methods": tuple(row.get("methods", ()))}))
        for row in document["entries"]
    )


@cache
def load(text: str) -> EngineVersion:
    """`vllm` for the newest version known, `vllm@0.19.0`, or a branch as in `vllm@pr48944`.

    Raises UsageError for an engine or version that is not known.
    """
    text = spelling.stack(text)
    name, _, version = text.partition("@")
    if name not in engines():
        raise FieldError("settings", f"{text}: expected one of {', '.join(engines())}")
    rows = capabilities(name)
    branch = version if any(row.branch == version for row in rows if row.branch) else ""
    wanted = _release(text, version) if version and not branch else None
    oldest = min((row.since for row in rows if row.since), key=Version)
    if wanted is not None and wanted < Version(oldest):
        raise FieldError("settings", f"{text}: the oldest version known is {oldest}")

    def there(row: Capability) -> bool:
        if row.branch:
            return row.branch == branch
        if wanted is None:
            return not row.before
        return Version(row.since) <= wanted and not (row.before and Version(row.before) <= wanted)

    return EngineVersion(
        name=name,
        asked=text,
        capabilities=tuple(row for row in rows if there(row)),
        elsewhere=tuple(row for row in rows if not there(row)),
    )


def _release(text: str, version: str) -> Version:
    """The version asked for, ordered as Python packages are (PEP 440): "0.9.0.dev1" and "0.9.0rc2"
    come before "0.9.0" and have nothing that arrived with it. Raises FieldError for what names no
    release, a bare major number among it."""
    try:
        wanted = Version(version)
    except InvalidVersion:
        wanted = None
    if wanted is None or len(wanted.release) < 2:
        raise FieldError("settings", f"{text}: {version!r} is no version; write one as in 0.19.0")
    return wanted


ENGINES = engines()


def cannot(draft: Draft, engine: EngineVersion) -> str:
    """Why the engine cannot draft so; empty where it can."""
    if draft.method not in engine.methods or draft.middle is not None:
        return f"cannot draft with {draft.name}{engine.lacks(draft.method)}"
    if draft.method == "model" and draft.budget_tokens is not None:
        return f"cannot keep a window of a draft model's cache, as {draft.name} does"
    return ""


SIXTEEN_BITS = ("bf16", "fp16")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ReplicaKind:
    """A kind of replica: what of it an engine may have no way to run."""

    model: ModelShape
    kv_dtype: str
    pp: int = 1
    tp: int = 1
    ep: int = 1
    attention_dp: int = 1
    split: bool = False
    """Whether some replicas only prefill."""
    draft: Draft | None = None


def refusal(engine: EngineVersion, wanted: ReplicaKind) -> str:
    """Why an engine cannot start such a replica, as a sentence; "" if it can.

    A draft that the engine cannot run at all is no reason: another one takes its place.
    """
    return (
        kv_refusal(engine, wanted.model, wanted.kv_dtype)
        or _layout_refusal(engine, wanted)
        or _draft_refusal(engine, wanted)
    )


def kv_refusal(engine: EngineVersion, model: ModelShape, kv_dtype: str) -> str:
    """Why an engine cannot hold a KV cache in a format, and which can; "" if it can."""
    why = _kv_reason(engine, model, kv_dtype)
    if not why:
        return ""
    others = [
        name for name in ENGINES
        if name != engine.name and not _kv_reason(load(name), model, kv_dtype)
    ]  # fmt: skip
    who = f"{' and '.join(others)} can" if others else "no other engine known can"
    if not engine.lacks(f"kv_{kv_dtype}") or others:
        why += f"; {who}"
    return why


def _kv_reason(engine: EngineVersion, model: ModelShape, kv_dtype: str) -> str:
    if kv_dtype in SIXTEEN_BITS:
        return ""
    what = f"kv_{kv_dtype}"
    if not engine.has(what):
        return f"{engine.asked} holds no {kv_dtype} KV cache{engine.lacks(what)}"
    if model.latent is not None and kv_dtype.startswith("int"):
        return (
            f"{engine.asked} holds no {kv_dtype} KV cache of latent attention: its integer "
            "formats have a scale for every head"
        )
    return ""


def _layout_refusal(engine: EngineVersion, wanted: ReplicaKind) -> str:
    if wanted.split and not engine.has("disaggregation"):
        return f"{engine.asked} has no replicas that only prefill{engine.lacks('disaggregation')}"
    if engine.name != "vllm":
        return ""
    ranks = wanted.tp * wanted.attention_dp
    if wanted.ep not in (1, ranks):
        return (
            f"{engine.asked} spreads whole experts over all {ranks} GPUs of a stage or over none, "
            f"not over {wanted.ep}"
        )
    if wanted.attention_dp > 1 and wanted.model.experts is None:
        return (
            f"{engine.asked} runs whole copies of a dense model under data parallelism, not copies "
            "of its attention that share the other layers; sglang can, for some models"
        )
    return ""


def _draft_refusal(engine: EngineVersion, wanted: ReplicaKind) -> str:
    draft = wanted.draft
    if draft is None or cannot(draft, engine):
        return ""
    beside = crowded(engine, wanted, draft.method)
    return f"{engine.asked} cannot draft with {draft.name} beside {beside}" if beside else ""


def crowded(engine: EngineVersion, wanted: ReplicaKind, method: str) -> str:
    """What of a layout a draft method does not run beside, with the versions that differ."""
    for what, degree, name in (
        ("pipeline_drafts", wanted.pp, "pipeline stages"),
        ("data_parallel_drafts", wanted.attention_dp, "data-parallel attention"),
    ):
        if degree > 1 and not engine.has(what, method):
            return name + engine.lacks(what, method)
    return ""


KINDS: dict[str, TreeKind] = {"dynamic_tree": "beam", "token_tree": "levels"}
"""Capabilities in `versions/*.toml`: a size that the engine fills itself, or a topology given."""


def engine_of(stack: str) -> EngineVersion | None:
    """The engine of a stack's name and version; None where no table speaks of it."""
    if stack.partition("@")[0] not in ENGINES:
        return None
    try:
        return load(stack)
    except UsageError:  # calibrated, but older than the table
        return None


def tree_kind(stack: str, draft: Draft | None, wanted: bool | None) -> TreeKind:
    """How the engine of a stack expands trees of a draft; "" where it runs none, or none are
    `wanted`. A stack without an engine's table expands whole levels, where trees are asked for."""
    if draft is None or not draft.grows_trees or wanted is False:
        return ""
    engine = engine_of(stack)
    if engine is None:
        return "levels" if wanted else ""
    if cannot(draft, engine):
        return ""
    return next((kind for what, kind in KINDS.items() if engine.has(what, draft.method)), "")


def refuse_trees(stack: str) -> None:
    """Raises UsageError for an engine that runs no tree of any draft."""
    engine = engine_of(stack)
    if engine and not any(engine.has(what, name) for what in KINDS for name in engine.methods):
        elsewhere = engine.lacks("token_tree", "eagle3")
        raise FieldError("trees", f"true: {stack} runs no tree{elsewhere}; stack sglang does")


def running_trees(draft: Draft) -> tuple[str, ...]:
    """The engines, by their newest version, that run trees of a draft."""
    return tuple(name for name in ENGINES if tree_kind(name, draft, wanted=None))
