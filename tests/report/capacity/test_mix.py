"""A plan whose answer is a mix says so on the terminal, in Markdown, in HTML and in its JSON."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from magicplan.planning.result import Launch, Plan
from magicplan.planning.verdict import mix_verdict
from magicplan.report.document import html, markdown
from magicplan.report.document.page import Page
from tests.report.capacity.a_plan import a_plan
from tests.report.capacity.golden_texts import on_a_terminal, page_of
from tests.report.documents import a_fleet


def mixed_plan() -> Plan:
    """Two kinds of replicas in place of the one of `a_plan`."""
    fleet = a_fleet()
    parts = tuple(
        replace(
            part, workload="chat", ep=8, attention_dp=8,
            launch=(
                Launch(engine="vllm", role="serve", command=f"vllm serve on {part.gpu}", notes=()),
            ),
        )
        for part in fleet.parts
    )  # fmt: skip
    return replace(
        a_plan(), answer="mixed", mixed=replace(fleet, parts=parts),
        verdict=mix_verdict(fleet.gpus, fleet.cost_usd_per_hour, a_plan().best),
        launch=tuple(one for part in parts for one in part.launch),
    )  # fmt: skip


@pytest.fixture(scope="module")
def found() -> Page:
    return page_of(mixed_plan())


def test_the_verdict_is_the_mix_and_names_the_best_of_one_kind(found: Page) -> None:
    assert found.verdict == (
        "Rent a mix: 8 x h100-sxm and 4 x l40s for $63.80 an hour, each within every limit. The "
        "best of one kind, 4 x h100-sxm, costs $10.00 an hour."
    )
    assert found.facts[0].value == "8 x h100-sxm and 4 x l40s"
    assert found.facts[1].value == "$63.80"


def test_every_form_shows_parts_cost_and_a_command_for_each(found: Page) -> None:
    terminal = on_a_terminal(found, width=140)
    shown = terminal, markdown.render((found,)), html.render((found,))
    for text in shown:
        for words in ("8 x h100-sxm", "4 x l40s", "31.90", "63.80", "TP4 EP8 attention DP8"):
            assert words in text
        for gpu in ("h100-sxm", "l40s"):
            assert f"vllm serve on {gpu}" in text
            assert f"Launch a replica on {gpu}" in text
    assert "Rent 4 x h100-sxm" not in terminal
    document = json.loads(json.dumps(mixed_plan().to_dict(), allow_nan=False))
    assert document["answer"] == "mixed"
    assert [one["command"] for one in document["launch"]] == [
        "vllm serve on h100-sxm", "vllm serve on l40s",
    ]  # fmt: skip


def test_what_follows_is_said_to_be_of_one_kind(found: Page) -> None:
    titles = [section.title for section in found.sections]
    assert titles[:2] == ["Buy and launch", "One kind alone"]
    assert "Limits" not in titles
    broken = replace(mixed_plan().best, meets=False, violations={"available": 2.0})
    fleet = a_fleet()
    said = mix_verdict(fleet.gpus, fleet.cost_usd_per_hour, broken)
    assert said.endswith("The best of one kind, 4 x h100-sxm, breaks a limit: the GPUs at hand.")
    text = on_a_terminal(page_of(replace(mixed_plan(), best=broken, verdict=said)), width=140)
    assert "2 times the limit" in text


def test_energy_that_is_not_known_is_said() -> None:
    unknown = replace(a_plan().best, energy_joules_per_token=float("nan"))
    text = on_a_terminal(page_of(replace(a_plan(), best=unknown)))
    assert "not known, for want of a TDP" in text
