"""Real text for a checkpoint: the user's file, or the sources of Python's standard library.

The library is on every machine, so an acceptance rate can be measured without a network; it is
source code, and a rate on it is one on source code.
"""

from __future__ import annotations

import sysconfig
from pathlib import Path

from magicplan.errors import MissingExtra, SpecError, UsageError

CHARACTERS_A_TOKEN = 8
"""More characters than a token has on average; the text is cut to what is needed."""


def prompts(folder: Path, batch: int, tokens: int, text: Path | None = None) -> list[list[int]]:
    """`batch` prompts of `tokens` tokens each, one part of the text behind the other.

    Raises SpecError for a tokenizer or text that cannot be read, UsageError if the text is short.
    """
    need = batch * tokens
    words = _file_text(text) if text else library_text(need * CHARACTERS_A_TOKEN)
    ids = _tokenized(folder, words[: need * CHARACTERS_A_TOKEN])
    if len(ids) < need:
        source = text or "the standard library's sources"
        raise UsageError(f"{source}: {len(ids)} tokens, {batch} prompts of {tokens} need {need}")
    return [ids[i * tokens : (i + 1) * tokens] for i in range(batch)]


def library_text(characters: int) -> str:
    """The start of all modules of the standard library in the order of their names."""
    parts: list[str] = []
    length = 0
    for file in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        part = file.read_text(encoding="utf-8", errors="replace")
        parts.append(part)
        length += len(part)
        if length >= characters:
            break
    return "".join(parts)


def _file_text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError as problem:
        raise SpecError(file, f"cannot be read ({problem.strerror})") from None
    except UnicodeDecodeError:
        raise SpecError(file, "is no UTF-8 text") from None


def _tokenized(folder: Path, text: str) -> list[int]:
    file = folder / "tokenizer.json"
    if not file.is_file():
        raise SpecError(folder, "has no tokenizer.json; expected a Hugging Face tokenizer")
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise MissingExtra("reading text with a checkpoint's tokenizer", "validate") from None
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as problem:  # the library raises plain Exception
        raise SpecError(file, f"is no tokenizer ({problem})") from None
    ids: list[int] = tokenizer.encode(text).ids
    return ids
