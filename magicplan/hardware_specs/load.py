"""Finding an accelerator: by a name in full, by family with a documented default, or by file."""

from __future__ import annotations

import re
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

from magicplan.errors import UnknownName
from magicplan.fields import read_toml
from magicplan.hardware_specs.accelerator import Accelerator, accelerator_from
from magicplan.hardware_specs.part_names import VENDORS, PartName, bare_key, key, parse, words_of

DATA = Path(__file__).parent
"""Not importlib.resources, whose import alone takes a tenth of a prediction."""
ALIKE = 0.6
"""Least likeness of a name offered where nothing of the same family is known."""


@cache
def names() -> tuple[str, ...]:
    """Every accelerator that ships, sorted."""
    entries = (DATA / "accelerators").iterdir()
    return tuple(sorted(e.name[:-5] for e in entries if e.name.endswith(".toml")))


@cache
def families() -> dict[str, list[str]]:
    """Family names and the accelerators they may mean, the default first."""
    return _table("families.toml")


@cache
def _table(file: str) -> dict[str, Any]:
    return tomllib.loads((DATA / file).read_text(encoding="utf-8"))


def resolve(name: str) -> tuple[Accelerator, str]:
    """An accelerator, and a sentence where the name left a choice ('' where it did not).

    `name` is a name in full, as it ships or as drivers and tools print it, a family such as
    "a100", a cloud's machine type, or the path of a TOML file.
    Raises UnknownName with near matches of the same family, SpecError for a bad file.
    """
    if name.endswith(".toml") or name.startswith((".", "/", "~")):
        return accelerator_from(read_toml(Path(name))), f"accelerator read from {name}"
    plain = name.strip().lower()
    if plain in names():
        return _shipped(plain), ""
    if plain in families():
        return _default(plain, tuple(map(_shipped, families()[plain])))
    exact = _exact().get(key(name)) or _exact().get(bare_key(name))
    if exact is not None:
        return _shipped(exact), ""
    if (machine := _machines().get(key(name))) is not None:
        part, count = machine
        return _shipped(part), f"{name} is a machine of {count} x {part}"
    said = parse(name)
    members = _members(said.base)
    agreeing = tuple(a for a in members if said.agrees(a))
    if agreeing:
        return _default(name, agreeing)
    if "/" in name:
        return accelerator_from(read_toml(Path(name))), f"accelerator read from {name}"
    raise _unknown(name, said, members)


def _default(name: str, found: tuple[Accelerator, ...]) -> tuple[Accelerator, str]:
    """The first of those that a name may mean, and what it may mean besides."""
    first, *others = (a.name for a in found)
    also = f" (documented default; also {', '.join(others)})" if others else ""
    return found[0], f"{name} read as {first}{also}"


@cache
def _exact() -> dict[str, str]:
    """Names in full under the normalisation; those without the maker only where no family is
    called so."""
    shared = {key(name) for name in families()}
    found: dict[str, str] = {}
    for a in all_accelerators():
        for text in (a.name, *a.driver_names, *a.aliases):
            found[key(text)] = a.name
            if bare_key(text) not in shared:
                found[bare_key(text)] = a.name
    return found


@cache
def _machines() -> dict[str, tuple[str, int]]:
    """Machine types of clouds: the accelerator in them, and how many."""
    return {key(name): (part, count) for name, (part, count) in _table("machines.toml").items()}


def _members(base: str) -> tuple[Accelerator, ...]:
    """What a bare name may mean, the default first; () where nothing is called so."""
    if not base:
        return ()
    for name, members in families().items():
        if parse(name).base == base:
            return tuple(map(_shipped, members))
    return tuple(a for a in all_accelerators() if parse(a.name).base == base)


def _unknown(name: str, said: PartName, members: tuple[Accelerator, ...]) -> UnknownName:
    """The error of a name that no part answers to: what is known of its family is offered."""
    hint = "magicplan gpus lists all"
    if re.match(r"\d+ ?x ?[a-z]", name.lower()):
        hint = f"give the number as --gpus {name.lower().partition('x')[0].strip()}"
    if members:
        listed = ", ".join(f"{a.name} ({a.title})" for a in members)
        return UnknownName("accelerator", name, (), f"known of that family: {listed}; {hint}")
    makers = {VENDORS[word] for word in words_of(name) if word in VENDORS}
    known = [a.name for a in all_accelerators() if not makers or a.vendor in makers]
    family = [one for one in known if _letters(one) == _letters(said.base)]
    like = re.sub(r"^rtx(pro)?(?=.)", r"rtx-\1-", said.base).replace("--", "-")
    return UnknownName(
        "accelerator", name, family or known, hint, like=like, cutoff=0.0 if family else ALIKE
    )


def _letters(name: str) -> str:
    """The letters that a name begins with, which tell families: l of l40s, mi of mi300x."""
    found = re.match(r"[a-z]+", key(name))
    return found[0] if found else ""


def load(name: str) -> Accelerator:
    """The accelerator of a name, a family or a file; see `resolve`."""
    return resolve(name)[0]


def all_accelerators() -> tuple[Accelerator, ...]:
    """Every accelerator that ships."""
    return tuple(_shipped(name) for name in names())


def identify(driver_name: str) -> Accelerator:
    """The accelerator whose driver reports exactly this product name; never a near one."""
    known = {product: a for a in all_accelerators() for product in a.driver_names}
    if driver_name not in known:
        raise UnknownName("device", driver_name, (), "no datasheet carries this driver name")
    return known[driver_name]


@cache
def _shipped(name: str) -> Accelerator:
    return accelerator_from(read_toml(DATA / "accelerators" / f"{name}.toml"))
