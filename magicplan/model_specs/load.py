"""Finding a model: a preset by exact name, or any config.json by path."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from magicplan.errors import SpecError, UnknownName
from magicplan.model_specs.config import PresetInfo, from_config
from magicplan.model_specs.shape import ModelShape

ALIASES = {
    "llama-2-7b-32k": "togethercomputer/LLaMA-2-7B-32K",
    "tinyllama-1.1b": "TinyLlama/TinyLlama_v1.1",
    "mixtral-8x7b": "mistralai/Mixtral-8x7B-v0.1",
    "mixtral-8x22b": "mistralai/Mixtral-8x22B-v0.1",
    "llama-3-8b": "meta-llama/Meta-Llama-3-8B",
    "llama-3-70b": "meta-llama/Meta-Llama-3-70B",
    "nemotron-3-nano-30b-a3b": "nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16",
    "nemotron-3-super-120b-a12b": "nvidia/NVIDIA-Nemotron-3-Super-120B-A12B-FP8",
    "nemotron-3-ultra-550b-a55b": "nvidia/NVIDIA-Nemotron-3-Ultra-550B-A55B-BF16",
    "nemotron-super-49b": "nvidia/Llama-3_3-Nemotron-Super-49B-v1",
}
"""Common names that no rule gives; every preset answers to its id and to that id's short form."""


def short_name(model_id: str) -> str:
    """The last part of a Hugging Face id in lower case, without -hf, -it, -instruct."""
    return re.sub(r"-(hf|it|instruct)$", "", model_id.rsplit("/", 1)[-1].lower())


LARGEST_FILE_BYTES = 16 << 20
PRESETS = Path(__file__).parent / "presets"


@cache
def presets() -> tuple[str, ...]:
    """Short names of all presets, which are their file names."""
    return tuple(sorted(e.name[:-5] for e in PRESETS.iterdir() if e.name.endswith(".json")))


@cache
def names() -> tuple[str, ...]:
    """Every short name and alias."""
    return tuple(sorted({*presets(), *ALIASES}))


def load(name: str) -> ModelShape:
    """A preset by id, short name or alias, or the model of a config.json (or its folder).

    Raises UnknownName with near matches, SpecError for a bad file.
    """
    key = _preset_of(name)
    if key is not None:
        return _preset(key)
    path = Path(name)
    if path.exists() or name.endswith(".json") or name.startswith((".", "/", "~")):
        return _from_path(path.expanduser())
    hint = "magicplan models lists all; a path to a config.json works too"
    raise UnknownName("model", name, names(), hint)


def _preset_of(name: str) -> str | None:
    """The preset's short name that a name stands for, if any."""
    wanted = name.strip().lower()
    if wanted in ALIASES:
        return short_name(ALIASES[wanted])
    if wanted in presets():
        return wanted
    short = short_name(wanted)
    if (
        "/" in wanted
        and short in presets()
        and _document(short)["_magicplan"]["id"].lower() == wanted
    ):
        return short
    return None


def all_models() -> tuple[ModelShape, ...]:
    """Every preset."""
    return tuple(_preset(name) for name in presets())


def preset_info(name: str) -> PresetInfo:
    """Where a preset's numbers come from."""
    key = _preset_of(name)
    if key is None:
        raise UnknownName("preset", name, names())
    about = _document(key)["_magicplan"]
    return PresetInfo(
        id=about["id"],
        aliases=tuple(a for a, of in ALIASES.items() if short_name(of) == key),
        published_parameters=about["published_parameters"],
        published_bytes=about.get("published_bytes"),
        basis=about["basis"],
        sources=tuple(about["sources"]),
        seen=about["seen"],
    )


@cache
def _document(key: str) -> dict[str, Any]:
    text = (PRESETS / f"{key}.json").read_text(encoding="utf-8")
    document: dict[str, Any] = json.loads(text)
    return document


@cache
def _preset(key: str) -> ModelShape:
    document = _document(key)
    shape = from_config(document, where=f"preset {key}", name=key)
    published = document["_magicplan"]["published_parameters"]
    return replace(shape, published_parameters=published)


def _from_path(path: Path) -> ModelShape:
    file = path / "config.json" if path.is_dir() else path
    beside = file.parent / "hf_quant_config.json"
    quantised = _json(beside) if beside.is_file() else None
    document = _json(file)
    name = file.resolve().parent.name
    return from_config(document, where=str(file), name=name, quantised=quantised)


def _json(file: Path) -> dict[str, Any]:
    """A file of one JSON object. Raises SpecError for what is missing, too large or none."""
    what = "expected a Hugging Face config.json"
    try:
        if file.stat().st_size > LARGEST_FILE_BYTES:
            raise SpecError(file, f"is larger than {LARGEST_FILE_BYTES >> 20} MiB; {what}")
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise SpecError(file, f"does not exist; {what}") from None
    except OSError as problem:
        raise SpecError(file, f"cannot be read ({problem.strerror})") from None
    except UnicodeDecodeError:
        raise SpecError(file, f"is no text file; {what}") from None
    if not text.strip():
        raise SpecError(file, f"is empty; {what}")
    try:
        document = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as problem:
        raise SpecError(file, f"is not JSON ({problem})") from None
    if not isinstance(document, dict):
        raise SpecError(file, f"holds no JSON object; {what}")
    return document
