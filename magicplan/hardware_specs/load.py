"""Finding an accelerator: by exact name, by family with a documented default, or by file."""

from __future__ import annotations

import re
import tomllib
from functools import cache
from pathlib import Path

from magicplan.errors import UnknownName
from magicplan.fields import read_toml
from magicplan.hardware_specs.accelerator import Accelerator, accelerator_from

DATA = Path(__file__).parent
"""Not importlib.resources, whose import alone takes a tenth of a prediction."""

MEMORY_TOLERANCE = 0.1
"""Drivers report up to a tenth less than a part's name, where memory corrects its errors."""
_DECORATION = re.compile(r"^nvidia-|geforce-|-blackwell|-nvl\d+$|-hbm\d\w?|-gddr\d\w?")


@cache
def names() -> tuple[str, ...]:
    """Every accelerator that ships, sorted."""
    entries = (DATA / "accelerators").iterdir()
    return tuple(sorted(e.name[:-5] for e in entries if e.name.endswith(".toml")))


@cache
def families() -> dict[str, list[str]]:
    """Family names and the accelerators they may mean, the default first."""
    return tomllib.loads((DATA / "families.toml").read_text(encoding="utf-8"))


def resolve(name: str) -> tuple[Accelerator, str]:
    """An accelerator, and a sentence where the name left a choice ('' where it did not).

    `name` is an exact name, a family such as "a100", or the path of a TOML file.
    Raises UnknownName with near matches, SpecError for a bad file.
    """
    if name.endswith(".toml") or "/" in name:
        return accelerator_from(read_toml(Path(name))), f"accelerator read from {name}"
    key = name.strip().lower()
    if key in names():
        return _shipped(key), ""
    if key in families():
        default, *others = families()[key]
        also = f"; also {', '.join(others)}" if others else ""
        return _shipped(default), f"{key} read as {default} (documented default{also})"
    known = (*names(), *families())
    raise UnknownName("accelerator", name, known, "magicplan gpus lists all")


def load(name: str) -> Accelerator:
    """The accelerator of a name, a family or a file; see `resolve`."""
    return resolve(name)[0]


def as_published(text: str) -> Accelerator:
    """The accelerator that a table or a page means, as "H100-80GB-PCIe", "NVIDIA A100 40GB".

    Memory that is stated decides among a family's members; without it the default is meant.
    Raises UnknownName, also where no member has that memory.
    """
    plain = re.sub(r"[\s_]+", "-", re.sub(r"\(.*?\)", "", text).strip().lower())
    plain = _DECORATION.sub("", plain)
    stated = re.search(r"-(\d+)gb", plain)
    bare = plain.replace(stated[0], "") if stated else plain
    exact = [name for name in (plain, bare) if name in names()]
    for name in exact[:1] or families().get(bare, []):
        found = _shipped(name)
        if not stated or abs(found.memory_bytes / 2**30 / int(stated[1]) - 1) < MEMORY_TOLERANCE:
            return found
    raise UnknownName("accelerator", text, (*names(), *families()), "magicplan gpus lists all")


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
