"""Number formats of a checkpoint, part by part: the bytes a weight takes and what multiplies it."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """How one part's numbers are stored.

    `scale_bits` are the bits of scales and zeros shared by a group, spread over its numbers.
    `math` is the format that products run in where the part has it; weight-only formats say 16
    bits, whatever the machine.
    """

    name: str
    bits: float
    scale_bits: float = 0.0
    math: str = "bf16"

    @property
    def bytes(self) -> float:
        """Bytes of one number, its share of scales included."""
        return (self.bits + self.scale_bits) / 8

    @property
    def weight_only(self) -> bool:
        """Whether fewer than 16 bits are stored and 16 multiply."""
        return self.bits < 16 and self.math == "bf16"


COMMON: Final = {
    "mxfp4": "fp4", "nvfp4": "fp4", "mxfp6": "fp8", "mxfp8": "fp8", "int2": "int4", "int3": "int4",
    "int5": "int8", "int6": "int8",
}  # fmt: skip
"""Formats by the name that `--dtype` has for their width."""
BF16: Final = Format(name="bf16", bits=16)


def format_of(name: str, group: int = 0, *, weight_only: bool = False) -> Format:
    """A format by its name, with one scale for every `group` numbers (0: for a channel or tensor).

    Scales: OCP microscaling formats 8 bits for every 32 (arXiv 2310.10537), NVFP4 an fp8 one for
    every 16, block fp8 an fp32 one for every 128 x 128 (arXiv 2412.19437), AWQ and GPTQ an fp16
    scale and as many bits of zero as a weight has, for every group.
    """
    if name in ("bf16", "fp16", "fp32"):
        return Format(name=name, bits=32 if name == "fp32" else 16)
    if name == "mxfp4":
        return Format(name=name, bits=4, scale_bits=8 / 32, math="bf16" if weight_only else "fp4")
    if name == "nvfp4":
        return Format(name=name, bits=4, scale_bits=8 / 16, math="bf16" if weight_only else "fp4")
    if name in ("mxfp8", "mxfp6"):
        bits = int(name[-1])
        return Format(
            name=name, bits=bits, scale_bits=8 / 32, math="bf16" if weight_only else "fp8"
        )
    if name == "fp8":
        scale = 32 / group**2 if group else 0.0
        return Format(name=name, bits=8, scale_bits=scale, math="bf16" if weight_only else "fp8")
    bits = int(name.removeprefix("int"))
    scale = 16 / group if group else 0.0
    math = "int8" if bits == 8 and not weight_only else "bf16"
    return Format(name=name, bits=bits, scale_bits=scale, math=math)


@dataclass(frozen=True, slots=True, kw_only=True)
class Formats:
    """A checkpoint's format for every part of a model; 16 bits where nothing says more."""

    attention: Format = BF16
    """Linear layers of all mixers."""
    mlp: Format = BF16
    """Dense feed-forwards."""
    shared: Format = BF16
    """Experts that every token visits."""
    experts: Format = BF16
    router: Format = BF16
    head: Format = BF16
    embeddings: Format = BF16
    kv: Format = BF16
    method: str = ""
    """What the checkpoint calls its quantisation; "" for none."""

    @property
    def plain(self) -> bool:
        """Whether every weight has 16 bits."""
        return all(part.bits == 16 for name, part in self.parts.items() if name != "kv")

    @property
    def parts(self) -> dict[str, Format]:
        """Every part's format by its name."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "method"}

    @property
    def dtype(self) -> str:
        """The common name of most weights' format: experts' where they are narrow, else that of
        feed-forwards, else of attention."""
        narrow = (p.name for p in (self.experts, self.mlp, self.attention) if p.bits < 16)
        return COMMON.get(found := next(narrow, "bf16"), found)

    def on(self, peaks: frozenset[str], wide: str) -> Formats:
        """These weights' formats on a machine whose units multiply the dtypes `peaks`: math in
        another dtype runs in `wide`."""
        return Formats(
            **{
                name: replace(part, math=part.math if part.math in peaks else wide)
                for name, part in self.parts.items()
            },
            method=self.method,
        )

    def as_dict(self) -> dict[str, str]:
        """Names by part, as results print them."""
        return {
            "experts": self.experts.name,
            "linear": " and ".join(
                dict.fromkeys(part.name for part in (self.attention, self.mlp, self.shared))
            ),
            "head": self.head.name,
            "embeddings": self.embeddings.name,
            "kv": self.kv.name,
        }


def named(name: str) -> Formats:
    """What the word of a format in a checkpoint's id says: every linear layer in it, head,
    embeddings and routers in 16 bits. Integers of 4 bits are weights alone, in groups of 128."""
    form = format_of(name, 128 if name in ("fp8", "int4") else 0, weight_only=name == "int4")
    return Formats(attention=form, mlp=form, shared=form, experts=form, method=name)
