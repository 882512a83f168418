"""Hugging Face checkpoints: safetensors files, memory-mapped, one tensor at a time to its device.

Pickle files are refused: loading one runs code. A file that is cut short or a tensor of another
shape than the config says is refused with the tensor's name and both shapes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from magicplan.errors import MissingExtra, SpecError

INDEX = "model.safetensors.index.json"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


class Checkpoint:
    """The tensors of a folder by name. Files stay mapped; a tensor is read when it is asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files: dict[Path, Any] = {}
        self._where = _locate(folder)

    def __contains__(self, name: str) -> bool:
        return name in self._where

    def read(
        self,
        name: str,
        shape: tuple[int, ...],
        rows: slice | None = None,
        columns: slice | None = None,
    ) -> Tensor:
        """A tensor, or its part: `rows` cut the first dimension, `columns` the last.

        Raises SpecError if it is missing, or is not `shape` (before cutting) in the file.
        """
        if name not in self._where:
            raise SpecError(self.folder, f"the checkpoint has no tensor {name}")
        file = self._where[name]
        part = self._open(file).get_slice(name)
        found = tuple(part.get_shape())
        if found != shape:
            raise SpecError(
                file, f"{name} has shape {list(found)}, expected {list(shape)} by config.json"
            )
        everything = slice(None)
        if len(shape) == 1:
            values: Tensor = part[rows or everything]
        else:
            values = part[rows or everything, columns or everything]
        if not values.is_floating_point():
            raise SpecError(file, f"{name} holds {values.dtype}: quantised weights are not run")
        return values

    def _open(self, file: Path) -> Any:
        if file not in self._files:
            self._files[file] = _mapped(file)
        return self._files[file]


def _mapped(file: Path) -> Any:
    """The file, mapped. Raises SpecError if it is missing, cut short or no safetensors file."""
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError:
        raise MissingExtra("reading a checkpoint", "validate") from None
    try:
        return safe_open(str(file), framework="pt")
    except FileNotFoundError:
        raise SpecError(file, "does not exist, though the checkpoint's index names it") from None
    except (SafetensorError, OSError) as problem:
        raise SpecError(file, f"is no whole safetensors file ({problem})") from None


def has_weights(folder: Path) -> bool:
    """Does the folder hold safetensors? Raises SpecError where all it holds are pickles."""
    if any(folder.glob("*.safetensors*")):
        return True
    refuse_pickles(folder)
    return False


def refuse_pickles(folder: Path) -> None:
    """Raises SpecError naming the first pickle file."""
    pickled = sorted(file.name for kind in PICKLES for file in folder.glob(kind))
    if pickled:
        raise SpecError(
            folder,
            f"holds only pickle files ({pickled[0]}), which run code when loaded; convert them "
            "to safetensors",
        )


def _locate(folder: Path) -> dict[str, Path]:
    """The file of every tensor, by the index or by the single file's own header."""
    index = folder / INDEX
    if index.is_file():
        try:
            weights = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
            return {str(name): folder / Path(str(file)).name for name, file in weights.items()}
        except (json.JSONDecodeError, UnicodeDecodeError, KeyError, AttributeError, TypeError):
            raise SpecError(index, "is no index of a checkpoint: weight_map is missing") from None
    single = folder / "model.safetensors"
    if single.is_file():
        return dict.fromkeys(_mapped(single).keys(), single)
    refuse_pickles(folder)
    raise SpecError(folder, "holds no checkpoint: expected model.safetensors or its index")
