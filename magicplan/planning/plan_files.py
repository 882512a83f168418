"""Plan files: a TOML becomes a `PlanRequest`; what is wrong is named by line and field."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from magicplan import hardware_specs, model_specs
from magicplan.errors import SpecError, UsageError
from magicplan.planning.plan_request import PlanRequest, request_from

TEMPLATE = Path(__file__).parent / "plan_template.toml"
SECTIONS: dict[str, tuple[str, ...]] = {
    "": ("name", "model"),
    "traffic": (
        "requests_per_s", "users", "think_seconds", "tokens_per_day", "trace", "prompt", "output",
        "prefix_hit_rate", "shared_prefix_tokens", "peak_factor", "growth",
    ),
    "slo": (),
    "choices": (
        "gpus", "tp", "pp", "ep", "attention_dp", "dtypes", "kv_dtypes", "drafts", "acceptance",
        "task", "max_gamma", "disaggregation",
    ),
    "engine": (
        "stack", "memory_fraction", "batched_tokens", "max_sequences", "verify_kv_passes",
        "max_utilisation",
    ),
    "money": ("objective", "prices", "max_gpus", "budget_usd_per_hour", "available"),
}  # fmt: skip
"""Fields by section; every field of `slo` is a limit."""
PATHS = ("trace", "prices")


def template() -> str:
    """The commented file that `magicplan plan --init` writes."""
    return TEMPLATE.read_text(encoding="utf-8")


def read_plan(path: Path) -> PlanRequest:
    """A checked request from a TOML file; paths in it are relative to it.

    Raises SpecError naming the file, the line and the field.
    """
    try:
        text = path.read_text(encoding="utf-8")
        data = tomllib.loads(text)
    except OSError as problem:
        raise SpecError(path, f"cannot be read ({problem.strerror})") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as problem:
        raise SpecError(path, f"is not TOML ({problem})") from None
    lines = _lines(text)
    options = _options(path, data, lines)
    for name in PATHS:
        if isinstance(options.get(name), str):
            options[name] = str(path.parent / options[name])
    try:
        request = request_from(options)
        model_specs.load(request.model)
        for gpu in request.gpus:
            hardware_specs.load(gpu)
    except SpecError:
        raise
    except UsageError as problem:
        raise SpecError(_where(path, lines, str(problem)), str(problem)) from None
    return request


def _options(path: Path, data: Mapping[str, Any], lines: Mapping[str, int]) -> dict[str, Any]:
    """Keyword arguments of a request."""
    found: dict[str, Any] = {}
    for key, value in data.items():
        section = key if isinstance(value, Mapping) and key in SECTIONS else ""
        entries = value if section else {key: value}
        if section == "slo":
            found["slo"] = dict(entries)
            continue
        for name, entry in entries.items():
            if name not in SECTIONS[section]:
                home = next((s for s, names in SECTIONS.items() if name in names), None)
                place = f"it belongs into [{home}]" if home else _known(section)
                label = f"{section}.{name}" if section else name
                raise SpecError(
                    f"{path}, line {lines.get(label, 1)}", f"unknown field {label}; {place}"
                )
            found[name] = entry
    return found


def _known(section: str) -> str:
    if not section:
        sections = ", ".join(f"[{name}]" for name in SECTIONS if name)
        return f"expected {', '.join(SECTIONS[''])}, or sections {sections}"
    return f"known there: {', '.join(SECTIONS[section])}"


def _lines(text: str) -> dict[str, int]:
    """Line of every key, by section and name."""
    found: dict[str, int] = {}
    section = ""
    for number, line in enumerate(text.splitlines(), 1):
        if header := re.match(r"\s*\[\s*([\w.-]+)\s*\]", line):
            section = header[1]
            found.setdefault(section, number)
        elif key := re.match(r"\s*([\w.-]+)\s*=", line):
            found[f"{section}.{key[1]}" if section else key[1]] = number
    return found


def _where(path: Path, lines: Mapping[str, int], problem: str) -> str:
    """The file, with the line of the first field that a message speaks of."""
    places = []
    for label, line in lines.items():
        for name in (label, label.rpartition(".")[2]):
            spoken = re.search(rf"(?<!\w){re.escape(name)}(?!\w)", problem)
            if spoken:
                places.append((spoken.start(), -len(name), line))
    for label, word in (("choices.gpus", "accelerator"), ("model", "model")):
        if not places and word in problem and label in lines:
            places.append((0, 0, lines[label]))
    return f"{path}, line {min(places)[-1]}" if places else str(path)
