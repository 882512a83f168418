"""Finding a model: a preset by a name in full, or any config.json by path."""

from __future__ import annotations

import json
import re
import tomllib
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from magicplan.errors import SpecError, UnknownName
from magicplan.model_specs.config import PresetInfo, from_config
from magicplan.model_specs.ids import HEADS, ModelId, of_family, parse
from magicplan.model_specs.shape import ModelShape

PRESETS = Path(__file__).parent / "presets"
LARGEST_FILE_BYTES = 16 << 20
VARIANTS = Path(__file__).parent / "variants.toml"
ALIKE = 0.6
"""Least likeness of a name offered where nothing of the same family is known."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Named:
    """What a name stands for."""

    shape: ModelShape
    preset: str
    """Its short name; "" for a config.json."""
    note: str
    """A sentence where the name is another than the preset's; "" where it is its own."""
    format: str
    """The number format that the id names, such as fp8, int4 or nvfp4; "" where it names none."""
    id: str
    """The Hugging Face id: the one asked for, or the preset's; "" for a config.json."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Variant:
    """A model of a preset's shape, and what of its config differs."""

    names: tuple[str, ...]
    preset: str
    why: str = ""
    """Empty where it is the preset itself under another name."""
    set: dict[str, Any]
    format: str = ""


def short_name(model_id: str) -> str:
    """The last part of a Hugging Face id in lower case, without -hf, -it, -instruct."""
    return re.sub(r"-(hf|it|instruct)$", "", model_id.rsplit("/", 1)[-1].lower())


@cache
def presets() -> tuple[str, ...]:
    """Short names of all presets, which are their file names."""
    return tuple(sorted(e.name[:-5] for e in PRESETS.iterdir() if e.name.endswith(".json")))


@cache
def variants() -> tuple[Variant, ...]:
    """Models whose names no rule leads to a preset."""
    rows = tomllib.loads(VARIANTS.read_text(encoding="utf-8"))["variants"]
    return tuple(Variant(**({"set": {}} | row | {"names": tuple(row["names"])})) for row in rows)


@cache
def names() -> tuple[str, ...]:
    """Every short name, and the names of models of the same shape."""
    return tuple(sorted({*presets(), *(name for v in variants() for name in v.names)}))


def load(name: str) -> ModelShape:
    """The shape of a model; `resolve` says what the name stands for. Raises as it does."""
    return resolve(name).shape


def resolve(name: str) -> Named:
    """A model by its id, its id's last part or an alias, with usual endings such as -Instruct,
    -FP8 or a date; or the model of a config.json (or its folder, which wins over an id).

    Raises UnknownName with near matches of the same family, SpecError for a bad file.
    """
    plain = name.strip().lower()
    if plain in presets():
        return _as_preset(name, plain)
    short = short_name(plain)
    if short in presets() and _document(short)["_magicplan"]["id"].lower() == plain:
        return _as_preset(name, short)
    path = Path(name.strip()).expanduser()
    if name.endswith(".json") or name.startswith((".", "/", "~")) or _there(path / "config.json"):
        return _at(path)
    asked = parse(name)
    for kind in ("words", "untuned", "bare"):
        found = _index(kind).get(getattr(asked, kind))
        if found is not None:
            return _as_variant(name, asked, found, kind)
    if plain and _there(path):
        return _at(path)
    raise _unknown(name, asked)


def _there(path: Path) -> bool:
    """Whether something is at a path; a name too long for one is none."""
    try:
        return path.exists()
    except OSError:
        return False


@cache
def _index(kind: str) -> dict[tuple[str, ...], Variant]:
    """Variants by the words of their names in full, presets by theirs without what `kind` drops."""
    found = {
        getattr(parse(name), kind): Variant(names=(name,), preset=name, set={})
        for name in presets()
    }
    return found | {parse(name).words: v for v in variants() for name in v.names}


def _as_preset(name: str, key: str) -> Named:
    about = _document(key)["_magicplan"]
    return Named(shape=_preset(key), preset=key, note="", format="", id=about["id"])


def _as_variant(name: str, asked: ModelId, found: Variant, kind: str) -> Named:
    """The preset that an id means, with a sentence where the id is not the preset's own."""
    own_id = _document(found.preset)["_magicplan"]["id"]
    shape = _changed(found.preset, found.set) if found.set else _preset(found.preset)
    own = parse(own_id)
    named_so = kind == "words" or asked.words == own.words
    its_own = named_so and not asked.format and asked.organisation in ("", own.organisation)
    note = "" if its_own else f"{name} is taken to have the shape of {found.preset}, by its name"
    if found.why:
        ends = (
            f" ({shape.max_ctx_tokens} tokens)"
            if shape.max_ctx_tokens != _preset(found.preset).max_ctx_tokens
            else ""
        )
        note = f"{name} has the shape of {found.preset}: {found.why}{ends}"
    return Named(
        shape=shape,
        preset=found.preset,
        note=note,
        format=asked.format or found.format,
        id=name.strip() if asked.organisation else own_id,
    )


def _changed(key: str, changes: dict[str, Any]) -> ModelShape:
    """A preset with other config fields; its published count holds where none of them matters."""
    shape = from_config(_document(key) | changes, where=f"preset {key}", name=key)
    own = _preset(key)
    same = shape.parameters == own.parameters
    return replace(shape, published_parameters=own.published_parameters if same else None)


def _unknown(name: str, asked: ModelId) -> UnknownName:
    """The error of a name that no preset answers to: those of its family are offered."""
    hint = "magicplan models lists all; a path to a config.json works too"
    if HEADS.search(name.lower()):
        hint = "a draft head goes into --draft; magicplan models lists whole models"
    like = "-".join(asked.untuned)
    related = of_family(name, presets())
    return UnknownName(
        "model", name, related or names(), hint, like=like, cutoff=0.0 if related else ALIKE
    )


def all_models() -> tuple[ModelShape, ...]:
    """Every preset."""
    return tuple(_preset(name) for name in presets())


def preset_info(name: str) -> PresetInfo:
    """A preset's names and origin. Raises UnknownName where `name` is no preset, also for a
    config.json."""
    key = resolve(name).preset
    if not key:
        raise UnknownName("preset", name, names())
    about = _document(key)["_magicplan"]
    return PresetInfo(
        id=about["id"],
        aliases=tuple(n for v in variants() if v.preset == key for n in v.names if n != key),
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


def _at(path: Path) -> Named:
    return Named(shape=_from_path(path), preset="", note="", format="", id="")


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
