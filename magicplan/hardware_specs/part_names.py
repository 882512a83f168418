"""Names of accelerators as drivers, tools, clouds and people write them, taken apart into words.

One normalisation holds for all of them: lower case, without trademark signs and what stands in
round brackets; what stands in square brackets is the product, as lspci prints it. Words then are
runs of letters and digits. Words of makers and brands name nothing; words of board, memory and
architecture must each agree with the datasheet; whatever else is said must be the part's name, in
full. Nothing is found by a piece of its name: "L40" is never L4.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from magicplan.hardware_specs.accelerator import Accelerator

VENDORS = {
    "nvidia": "NVIDIA", "amd": "AMD", "intel": "Intel", "habana": "Intel", "google": "Google",
    "aws": "AWS",
}  # fmt: skip
BRANDS = frozenset(
    {
        "tesla", "geforce", "instinct", "hgx", "dgx", "superchip", "corporation", "lovelace",
        "generation", "edition", "gpu", "accelerator",
    }
)  # fmt: skip
"""Words that stand before or after names and distinguish no parts."""
ARCHITECTURES = frozenset({"turing", "volta", "ampere", "ada", "hopper", "blackwell"})
BOARD = re.compile(r"(sxm|pcie|oam|nvl)\d*|server|workstation|ws")
MEMORY = re.compile(r"(\d+)(?:g|gb|gib)")
MEMORY_TYPE = re.compile(r"hbm\d?e?|gddr\d?x?")
MEMORY_TOLERANCE = 0.1
"""Drivers report up to a tenth less than a part's name, where memory corrects its errors."""


@dataclass(frozen=True, slots=True)
class PartName:
    """What a name says: its bare part, and words about vendor, board, memory and architecture."""

    base: str
    vendors: frozenset[str]
    boards: frozenset[str]
    memory_gb: frozenset[int]
    memory_types: frozenset[str]
    architectures: frozenset[str]

    def agrees(self, a: Accelerator) -> bool:
        """Whether everything said beside the bare part holds for an accelerator."""
        return (
            self.vendors <= {a.vendor}
            and all(_on(board, a) for board in self.boards)
            and all(holds(a, size) for size in self.memory_gb)
            and self.memory_types <= {a.memory_type.lower(), a.memory_type.lower()[:3]}
            and self.architectures <= set(a.architecture.lower().split())
        )


def holds(a: Accelerator, sold_gb: int) -> bool:
    """Whether a part is the one sold with so much memory."""
    return abs(a.memory_bytes / 2**30 / sold_gb - 1) < MEMORY_TOLERANCE


def _on(board: str, a: Accelerator) -> bool:
    """Whether a part has that board: `sxm` is any of its generations, `sxm4` that one."""
    return any(board in (own, own.rstrip("0123456789")) for own in a.form_factors)


def words_of(text: str) -> list[str]:
    """The words of a name under the normalisation, makers and brands among them."""
    plain = re.sub(r"\((?:r|tm|c)\)|[®™]", " ", text.lower())
    plain = re.sub(r"\(.*?\)", " ", re.sub(r"^gpu \d+:", " ", plain))
    products = re.findall(r"\[([^\[\]]+)\]", plain)
    plain = products[-1] if products else plain
    plain = re.sub(r"(?<=\d)(?=(?:sxm|pcie|oam|nvl)\d*\b)", " ", plain)
    plain = re.sub(r"(?<=\d) (?=g(?:b|ib)\b)", "", plain)
    return re.findall(r"[a-z0-9]+", plain)


def key(text: str) -> str:
    """A whole name without spaces and punctuation, for comparing in full."""
    return "".join(words_of(text))


def bare_key(text: str) -> str:
    """A whole name without spaces, punctuation, makers and brands, for comparing in full."""
    return "".join(w for w in words_of(text) if w not in VENDORS and w not in BRANDS)


def parse(text: str) -> PartName:
    """A name taken apart."""
    found: dict[str, list[str]] = {kind: [] for kind in ("v", "b", "m", "t", "a", "rest")}
    for word in words_of(text):
        if word in BRANDS:
            continue
        kind = (
            "v" if word in VENDORS
            else "a" if word in ARCHITECTURES
            else "b" if BOARD.fullmatch(word)
            else "m" if MEMORY.fullmatch(word)
            else "t" if MEMORY_TYPE.fullmatch(word)
            else "rest"
        )  # fmt: skip
        found[kind].append(word)
    return PartName(
        base="".join(found["rest"]),
        vendors=frozenset(VENDORS[word] for word in found["v"]),
        boards=frozenset(found["b"]),
        memory_gb=frozenset(int(word.rstrip("gib")) for word in found["m"]),
        memory_types=frozenset(found["t"]),
        architectures=frozenset(found["a"]),
    )
