"""No host synchronisation in a round: it runs on tensors that have shapes but no values."""

from __future__ import annotations

import pytest
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from magicplan.kernels.backend import LayerCache, Window
from magicplan.kernels.torch_attention import dense_attention
from magicplan.kernels.torch_backend import TorchBackend
from magicplan.validate.decoder.build import KINDS, DraftPlan, build_decoder
from magicplan.validate.decoder.loop import Decoder
from magicplan.validate.decoder.sampling import Sampling
from tests.validate.decoder import tiny

MODEL, SMALL = tiny.model(), tiny.model(layers=1)
TREE = (-1, 0, 0, 1, 1, 2)


class Anywhere(TorchBackend):
    """The torch backend as on a GPU: on a CPU it may read lengths, which cost nothing there."""

    def attention(
        self,
        query: Tensor,
        cache: LayerCache,
        lengths: Tensor,
        *,
        view: Window | None = None,
        tree: Tensor | None = None,
        first: int = 0,
    ) -> Tensor:
        return dense_attention(query, cache, lengths, view=view, tree=tree, first=first)


def decoder(kind: str, parents: tuple[int, ...], **options: object) -> Decoder:
    plan = DraftPlan(kind=kind, parents=parents, budget=36, inner_gamma=2)
    settings: dict[str, object] = {"batch": 2, "tokens": 90, "small": SMALL, "end_tokens": [3]}
    built = build_decoder(MODEL, Anywhere(), plan=plan, **(settings | options))  # type: ignore[arg-type]
    built.start(tiny.prompts(60, 41), 20)
    return built


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("parents", [(-1, 0, 1, 2), TREE])
def test_a_round_reads_no_value(kind: str, parents: tuple[int, ...]) -> None:
    if parents == TREE and kind in ("ngram", "triforce"):
        parents = (-1, 0, 1)  # a chain only
    built = decoder(kind, parents, sampling=Sampling(temperature=0.9, top_p=0.9))
    with FakeTensorMode(allow_non_fake_inputs=True):
        built.round()
        built.decode_step()


@pytest.mark.parametrize("parents", [(-1, 0, 1, 2), TREE])
def test_a_greedy_round_reads_no_value(parents: tuple[int, ...]) -> None:
    built = decoder("streaming", parents)
    with FakeTensorMode(allow_non_fake_inputs=True):
        built.round()
        built.decode_step()


def test_a_simulated_round_reads_no_value() -> None:
    built = decoder("self", TREE, simulated=[0.5, 0.2])
    with FakeTensorMode(allow_non_fake_inputs=True):
        built.round()


def test_reading_a_value_is_seen() -> None:
    """A control: the CPU's own path reads the lengths, and the host's look whether all ended."""
    built = decoder("self", TREE)
    with FakeTensorMode(allow_non_fake_inputs=True):
        with pytest.raises(DataDependentOutputException):
            built.run(rounds=1)
        built.backend = TorchBackend()
        with pytest.raises((DataDependentOutputException, RuntimeError)):
            built.decode_step()
