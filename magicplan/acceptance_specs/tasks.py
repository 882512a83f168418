"""Names of tasks: data sets, and the kinds of work that they stand for."""

from __future__ import annotations

from functools import cache

from magicplan.acceptance_specs.entry import entries, methods
from magicplan.errors import FieldError

KINDS = {
    "chat": ("mtbench", "sharegpt", "specbench", "alpaca", "roleplay", "writing", "humanities"),
    "code": ("humaneval", "livecodebench", "instructcoder", "mbpp", "coding", "speedbenchcode"),
    "math": ("gsm8k", "math"),
    "reasoning": ("gpqa", "stem", "reasoning", "aime"),
    "editing": ("edit5kchar", "copying", "reproducedocument", "rewritebutkeep", "lowentropy"),
    "summarization": ("summar", "cnndailymail"),
    "questions": ("answeraquestion", "quoteandexplain", "naturalquestions", "qa"),
    "retrieval": ("rag", "longbench", "needle"),
    "translation": ("multilingual", "wmt"),
    "books": ("pg19",),
}
"""Kinds of work, and how names of data sets of that kind begin, end or read, without spelling."""


def plain(task: str) -> str:
    """A task's name without the ways in which sources spell it: MT-Bench, mtbench."""
    return "".join(c for c in task.lower() if c.isalnum())


def kind_of(task: str) -> str | None:
    """The kind of work of a task: itself where it names one, or that of the data set it names."""
    name = plain(task)
    if name in KINDS:
        return name
    return next((kind for kind, parts in KINDS.items() if any(p in name for p in parts)), None)


def checked(task: str) -> str:
    """The task, where it is one that a table or a kind of work knows. Raises UsageError with the
    list."""
    name = plain(task)
    if name and (name in KINDS or any(name in plain(known) for known in known_tasks())):
        return task
    if name and any(name == part for parts in KINDS.values() for part in parts):
        return task
    listed = ", ".join((*KINDS, *known_tasks()))
    raise FieldError("task", f"{task!r} is unknown; expected one of {listed}")


@cache
def known_tasks() -> tuple[str, ...]:
    """Tasks whose acceptance some table holds, each spelt once."""
    found: dict[str, str] = {}
    for method in methods():
        for row in entries(method):
            if row.task != "not recorded":
                found.setdefault(plain(row.task), row.task)
    return tuple(sorted(found.values(), key=str.lower))
