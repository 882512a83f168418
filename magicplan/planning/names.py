"""What the names in a plan stand for: a typo is an error with near matches, not another plan."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from magicplan import hardware_specs, model_specs
from magicplan.acceptance_specs.entry import entries, methods
from magicplan.acceptance_specs.files import parse_acceptance
from magicplan.engine_specs.capabilities import refuse_trees
from magicplan.errors import SpecError, UnknownName, UsageError
from magicplan.hardware_specs.transfer import calibration_for
from magicplan.prediction.draft_names import parse_view
from magicplan.roofline.deployment import BYTES_PER_KV_NUMBER, BYTES_PER_WEIGHT
from magicplan.roofline.drafts import DRAFTS, VIEWS

if TYPE_CHECKING:
    from magicplan.planning.request import PlanRequest

WORKLOADS = (
    "chat", "code", "math", "reasoning", "retrieval", "rag", "agents", "summarization",
    "translation",
)  # fmt: skip
"""Tasks that users have and no table names: acceptance is then stretched, and says so."""


def check_names(ask: PlanRequest) -> None:
    """Look every name up. Raises UsageError that begins with the field, SpecError for a file."""
    looked_up("model", model_specs.load, ask.model)
    gpus = [looked_up("gpus", hardware_specs.load, name) for name in ask.gpus]
    looked_up("stack", lambda name: calibration_for(gpus[0], name), ask.stack)
    if ask.trees:
        refuse_trees(ask.stack)
    for name in ask.dtypes:
        _one_of("dtypes", name, BYTES_PER_WEIGHT)
    for name in ask.kv_dtypes:
        _one_of("kv_dtypes", name, BYTES_PER_KV_NUMBER)
    for name in ask.drafts:
        if name not in ("none", "auto"):
            looked_up("drafts", _check_draft, name)
    if ask.task is not None and not any(ask.task.lower() in task.lower() for task in tasks()):
        hint = f"known: {', '.join(tasks())}; leave it out, or state acceptance"
        raise UsageError(f"task: {UnknownName('task', ask.task, tasks(), hint)}")
    if isinstance(ask.acceptance, str):
        _check_acceptance("acceptance", ask.acceptance)
    else:
        for name, text in ask.acceptance.items():
            looked_up(f"acceptance.{name}", _check_draft, name)
            _check_acceptance(f"acceptance.{name}", text)


def stock_of(available: Mapping[str, int]) -> dict[str, int]:
    """GPUs at hand by exact names. Raises UsageError for unknown names and bad counts."""
    found = {}
    for name, count in available.items():
        if isinstance(count, bool) or not isinstance(count, int) or not 0 <= count <= 10**6:
            raise UsageError(f"available.{name} {count!r}: expected a whole number of GPUs")
        found[hardware_specs.load(name).name] = count
    return found


def looked_up(field: str, find: Callable[[str], Any], name: str) -> Any:
    """What `find` makes of a name; its errors begin with the field, those of files with theirs."""
    try:
        return find(name)
    except SpecError:
        raise
    except UsageError as problem:
        raise UsageError(f"{field}: {problem}") from None


@cache
def tasks() -> tuple[str, ...]:
    """Every task that acceptance was measured on, and `WORKLOADS`."""
    measured = {entry.task for method in methods() for entry in entries(method)}
    return (*WORKLOADS, *sorted(measured - {"not recorded"}, key=str.lower))


def _one_of(field: str, name: str, known: Iterable[str]) -> None:
    if name not in known:
        problem = UnknownName("format", name, known, f"expected one of {', '.join(known)}")
        raise UsageError(f"{field}: {problem}")


def _check_draft(text: str) -> None:
    """A way of drafting or a smaller model, with its view behind a blank."""
    name, _, view = text.partition(" ")
    way, _, rest = name.partition(":")
    if way not in DRAFTS:
        _check_small(name)
    elif rest:
        small, _, inner = rest.partition(":")
        if not DRAFTS[way].small:
            raise UsageError(
                f"{name!r}: {way} takes no smaller model; a view of the cache stands behind a "
                "blank, as in 'self streaming:512'"
            )
        if inner and not (inner.isdigit() and 1 <= int(inner) <= 16):
            raise UsageError(f"{name!r}: expected 1 to 16 inner tokens after the model")
        if small:
            _check_small(small)
    if view and view not in VIEWS:  # a kind alone is every budget
        parse_view(view)


def _check_small(name: str) -> None:
    try:
        model_specs.load(name)
    except UnknownName:
        known = ("none", "auto", *DRAFTS, *model_specs.names())
        hint = f"expected {', '.join(DRAFTS)}, a smaller model, or a path to its config.json"
        raise UnknownName("draft", name, known, hint) from None


def _check_acceptance(field: str, text: Any) -> None:
    if not isinstance(text, str):
        raise UsageError(f"{field} {text!r}: expected auto, or text such as 0.8")
    if text != "auto":
        looked_up(field, parse_acceptance, text)


def as_text(acceptance: Any) -> str | Mapping[str, str]:
    """Acceptance with numbers as text. Raises UsageError for what is neither text nor a table."""

    def one(value: Any) -> Any:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return str(value) if number else value

    if isinstance(acceptance, Mapping):
        return {str(name): one(value) for name, value in acceptance.items()}
    found = one(acceptance)
    if not isinstance(found, str):
        raise UsageError(f"acceptance {acceptance!r}: expected auto, 0.8, or a table by draft")
    return found
