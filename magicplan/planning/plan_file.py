"""Plan files: a TOML becomes a `PlanRequest`; what is wrong is named by line and field."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from magicplan import hardware_specs, model_specs
from magicplan.errors import SpecError, UsageError
from magicplan.planning.names import looked_up, stock_of
from magicplan.planning.prices import prices_for
from magicplan.planning.request import SLO_KEYS, PlanRequest, request_from
from magicplan.planning.toml_lines import lines_of
from magicplan.prediction.draft_names import draft_of
from magicplan.prediction.request import Request
from magicplan.prediction.resolve import resolve
from magicplan.roofline.memory import splits_evenly
from magicplan.serving.load import load_of

TEMPLATE = Path(__file__).parent / "plan_template.toml"
SECTIONS: dict[str, tuple[str, ...]] = {
    "": ("name", "model"),
    "traffic": (
        "requests_per_s", "users", "think_seconds", "tokens_per_day", "trace", "prompt", "output",
        "prefix_hit_rate", "shared_prefix_tokens", "peak_factor", "growth",
    ),
    "slo": SLO_KEYS,
    "choices": (
        "gpus", "tp", "pp", "ep", "attention_dp", "dtypes", "kv_dtypes", "drafts", "acceptance",
        "task", "max_gamma", "trees", "disaggregation",
    ),
    "engine": (
        "stack", "memory_fraction", "batched_tokens", "max_sequences", "verify_kv_passes",
        "max_utilisation",
    ),
    "money": ("objective", "prices", "max_gpus", "budget_usd_per_hour", "available"),
}  # fmt: skip
"""Fields by section."""
PATHS = ("trace", "prices")


def template() -> str:
    """The commented file that `magicplan plan --init` writes."""
    return TEMPLATE.read_text(encoding="utf-8")


def read_plan(path: Path | str, over: Mapping[str, Any] | None = None) -> PlanRequest:
    """A request from a TOML file, checked as far as can be without planning.

    Paths in the file are relative to it. `over` replaces fields of the file, limits of `slo` one by
    one. Raises SpecError naming the file, the line and the field, or another file that it leads to;
    UsageError for what `over` brought.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
        data = tomllib.loads(text)
    except OSError as problem:
        raise SpecError(path, f"cannot be read ({problem.strerror})") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as problem:
        raise SpecError(path, f"is not TOML ({problem})") from None
    lines, given = lines_of(text), dict(over or {})
    options = _options(path, data, lines)
    for name in PATHS:
        if isinstance(options.get(name), str):
            options[name] = str(path.parent / options[name])
    limits = given.pop("slo", {})
    try:
        return _answerable(options | given, limits)
    except SpecError:
        raise
    except UsageError as problem:
        where = _where(path, lines, {*given, *(f"slo.{name}" for name in limits)}, str(problem))
        if where is None:
            raise
        raise SpecError(where, str(problem).removeprefix("--")) from None


def _answerable(options: Mapping[str, Any], limits: Mapping[str, float]) -> PlanRequest:
    """The request, after every check that planning would make. Raises UsageError."""
    slo = options.get("slo", {})
    ask = request_from({**options, "slo": {**slo, **limits} if isinstance(slo, dict) else slo})
    model = model_specs.load(ask.model)
    gpus = [hardware_specs.load(name) for name in ask.gpus]
    question = Request(
        gpu=ask.gpus[0], model=ask.model, stack=ask.stack, draft="none", ep=ask.ep or 1,
        attention_dp=ask.attention_dp or 1,
    )  # fmt: skip
    resolve(question)
    if len(ask.drafts) == 1 and ask.drafts[0] not in ("none", "auto"):
        name, _, view = ask.drafts[0].partition(" ")
        drafting = replace(question, draft=name, draft_kv=view or None)
        looked_up("drafts", lambda _: draft_of(drafting, model), name)
    if ask.tp is not None:
        split = [tp for tp in ask.tp if splits_evenly(model, tp)]
        if not split:
            raise UsageError(
                f"tp {', '.join(map(str, ask.tp))}: splits neither the {model.q_heads} heads nor "
                f"the {model.kv_heads} KV heads of {model.name} evenly"
            )
        if ask.ep and all(tp * (ask.attention_dp or ask.ep) % ask.ep for tp in split):
            raise UsageError(f"ep {ask.ep}: divides no tp asked for times attention_dp")
    if ask.pp is not None and ask.pp > model.layers:
        raise UsageError(f"pp {ask.pp}: {model.name} has {model.layers} layers")
    if ask.available is not None:
        stock_of(ask.available)
    load_of(ask)
    prices_for(gpus, ask.prices, needed=ask.objective == "cost")
    return ask


def _options(path: Path, data: Mapping[str, Any], lines: Mapping[str, int]) -> dict[str, Any]:
    """Keyword arguments of a request."""
    found: dict[str, Any] = {}
    for key, value in data.items():
        section = key if isinstance(value, Mapping) and key in SECTIONS else ""
        if section == "slo":
            found["slo"] = dict(value)
            continue
        entries = value if section else {key: value}
        for name, entry in entries.items():
            if name not in SECTIONS[section]:
                label = f"{section}.{name}" if section else name
                where = f"{path}, line {lines[label]}" if label in lines else path
                raise SpecError(where, f"unknown field {label}; {_home(section, name)}")
            found[name] = entry
    return found


def _home(section: str, name: str) -> str:
    """Where a field belongs, or what is known where it stands."""
    if name and name in SECTIONS:
        return f"expected a section [{name}] of its own"
    home = next((s for s, names in SECTIONS.items() if name in names), None)
    return f"it belongs into [{home}]" if home else _known(section, name)


def _known(section: str, name: str) -> str:
    known = SECTIONS[section]
    titles = () if section else tuple(SECTIONS)
    near = difflib.get_close_matches(name, (*known, *titles), n=3)
    offer = f"did you mean {', '.join(near)}? " if near else ""
    if not section:
        sections = ", ".join(f"[{title}]" for title in SECTIONS if title)
        return f"{offer}expected {', '.join(known)}, or sections {sections}"
    return f"{offer}known there: {', '.join(known)}"


def _where(path: Path, lines: Mapping[str, int], over: set[str], problem: str) -> str | None:
    """The file, with the line of the first field that a message speaks of; None if that field
    came from elsewhere, or if none is named and something did."""
    places: list[tuple[int, int, int]] = []
    for label, line in (*dict.fromkeys(over, 0).items(), *lines.items()):
        if label in SECTIONS or (line and {label, label.rpartition(".")[2]} & over):
            continue
        parts = label.split(".")
        for first in range(len(parts)):
            name = ".".join(parts[first:])
            pattern = re.escape(name).replace("_", "[_-]")  # options are spoken of as --such-names
            if spoken := re.search(rf"(?<!\w){pattern}(?!\w)", problem):
                places.append((spoken.start(), -len(name), line))
    if not places:
        return None if over else str(path)
    line = min(places)[-1]
    return f"{path}, line {line}" if line else None
