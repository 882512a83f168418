"""What the names in a plan stand for: a typo is an error with near matches, not another plan."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any

from magicplan import hardware_specs, model_specs
from magicplan.acceptance_specs.entry import entries, methods
from magicplan.acceptance_specs.files import parse_acceptance
from magicplan.engine_specs.capabilities import refuse_trees
from magicplan.errors import FieldError, SpecError, UnknownName, UsageError
from magicplan.fields import whole
from magicplan.hardware_specs.accelerator import Accelerator
from magicplan.hardware_specs.transfer import calibration_for
from magicplan.planning.request import PlanRequest
from magicplan.prediction.draft_names import parse_view
from magicplan.roofline.deployment import BYTES_PER_KV_NUMBER, BYTES_PER_WEIGHT
from magicplan.roofline.drafts import DRAFTS, VIEWS

WORKLOADS = (
    "chat", "code", "math", "reasoning", "retrieval", "rag", "agents", "summarization",
    "translation",
)  # fmt: skip
"""Tasks that users have and no table names: acceptance is then stretched, and says so."""


def check_names(ask: PlanRequest, gpu: Accelerator) -> None:
    """Look up every name besides the model and the GPUs, of which `gpu` is the first.

    Raises FieldError, SpecError for a file.
    """
    choices, stack = ask.choices, ask.engine.stack
    looked_up("stack", lambda name: calibration_for(gpu, name), stack)
    if choices.trees:
        refuse_trees(stack)
    for name in choices.dtypes:
        _one_of("dtypes", name, BYTES_PER_WEIGHT)
    for name in choices.kv_dtypes:
        _one_of("kv_dtypes", name, BYTES_PER_KV_NUMBER)
    for name in choices.drafts:
        if name not in ("none", "auto"):
            looked_up("drafts", _check_draft, name)
    asked = choices.task
    if asked is not None and not any(asked.lower() in task.lower() for task in tasks()):
        hint = f"known: {', '.join(tasks())}; leave it out, or state acceptance"
        raise FieldError("task", f": {UnknownName('task', asked, tasks(), hint)}")
    if isinstance(choices.acceptance, str):
        _check_acceptance("acceptance", choices.acceptance)
    else:
        for name, text in choices.acceptance.items():
            looked_up(f"acceptance.{name}", _check_draft, name)
            _check_acceptance(f"acceptance.{name}", text)


def stock_of(available: Mapping[str, int]) -> dict[str, int]:
    """GPUs at hand by accelerator. Raises FieldError for unknown names and bad counts."""
    found = {}
    for name, count in available.items():
        field = f"available.{name}"
        accelerator = looked_up(field, hardware_specs.load, name)
        found[accelerator.name] = whole(field, count, low=0, high=10**6)
    return found


def looked_up(field: str, find: Callable[[str], Any], name: str) -> Any:
    """What `find` makes of a name. Raises its errors as a FieldError of the field, and those of
    files as they are."""
    try:
        return find(name)
    except SpecError:
        raise
    except UsageError as problem:
        raise FieldError(field, f": {problem}") from None


@cache
def tasks() -> tuple[str, ...]:
    """Every task that acceptance was measured on, and `WORKLOADS`."""
    measured = {entry.task for method in methods() for entry in entries(method)}
    return (*WORKLOADS, *sorted(measured - {"not recorded"}, key=str.lower))


def _one_of(field: str, name: str, known: Iterable[str]) -> None:
    if name not in known:
        problem = UnknownName("format", name, known, f"expected one of {', '.join(known)}")
        raise FieldError(field, f": {problem}")


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
        raise FieldError(field, f"{text!r}: expected auto, or text such as 0.8")
    if text != "auto":
        looked_up(field, parse_acceptance, text)
