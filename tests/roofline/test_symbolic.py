"""Symbols against numbers, and the closed form of the draft length against exhaustive search."""

from __future__ import annotations

import numpy as np
import pytest
import sympy as sp
from hypothesis import given
from hypothesis import strategies as st

from magicplan.model_specs.shape import ModelShape
from magicplan.roofline import symbolic
from magicplan.roofline.deployment import Deployment
from magicplan.roofline.speculation import optimal_gamma
from magicplan.roofline.symbolic import ALPHA, BATCH, CTX, FIXED, GAMMA, QUERY, SLOPE, View
from magicplan.roofline.timing import Machine, step_cost
from magicplan.roofline.traffic import Pass, forward
from tests.shapes import FITTED, IDEAL, LLAMA, MIXTURE, SHAPES


@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: s.name)
@pytest.mark.parametrize("machine", [IDEAL, FITTED], ids=["ideal", "fitted"])
def test_a_symbolic_step_equals_the_numeric_one(shape: ModelShape, machine: Machine) -> None:
    layout = Deployment(tp=2.0)
    view = View(model=shape, layout=layout, machine=machine)
    seconds = sp.lambdify((BATCH, CTX, QUERY), view.seconds(), "numpy")
    rng = np.random.default_rng(3)
    for _ in range(20):
        batch, ctx = float(rng.integers(1, 300)), float(rng.integers(1, 200_000))
        tokens = float(rng.integers(1, 17))
        work = Pass(batch=batch, ctx=ctx, query_tokens=tokens)
        host = machine.calibration.host.pass_seconds(batch, batch * tokens)
        numeric = float(step_cost(forward(shape, layout, work), machine, host).seconds)
        assert seconds(batch, ctx, tokens) == pytest.approx(numeric, rel=1e-12)


def test_walls_by_hand() -> None:
    view = View(model=LLAMA, layout=Deployment(), machine=IDEAL)
    # 15.01 GB of weights over 131,072 bytes a token are 114,516 tokens; one is the new token
    assert float(view.kv_equals_weights().subs(BATCH, 1)) == pytest.approx(114_515, rel=1e-4)
    # ridge 153 over a group of 4; activations push the linear wall a little past the ridge
    ridge = view.attention_ridge()
    assert ridge is not None
    assert ridge / float(view.attention_intensity()) == pytest.approx(312 / 2.039 / 4, rel=1e-3)
    assert 153 < float(view.linear_wall()) < 165
    assert View(model=MIXTURE, layout=Deployment(), machine=IDEAL).linear_wall() is None


def test_the_closed_form_makes_the_derivative_vanish() -> None:
    for alpha, ratio in ((0.3, 30), (0.8, 10), (0.95, 4)):
        numbers = {ALPHA: sp.Float(alpha, 40), FIXED: sp.Integer(ratio), SLOPE: sp.Integer(1)}
        length = symbolic.optimal_gamma_closed_form().subs(numbers).evalf(30)
        slope = symbolic.stationary_condition().subs(numbers).subs(GAMMA, length).evalf(30)
        assert abs(complex(slope)) < 1e-20
        assert float(optimal_gamma(alpha, ratio, 1)) == pytest.approx(
            float(sp.re(length)), rel=1e-9
        )


@given(
    alpha=st.floats(0.01, 0.99),
    slope=st.floats(1e-4, 1e-1),
    ratio=st.floats(1.0, 1e4),
)
def test_the_best_integer_is_a_neighbour(alpha: float, slope: float, ratio: float) -> None:
    fixed = ratio * slope
    gammas = np.arange(0, 4000)
    rate = (1 - alpha ** (gammas + 1)) / (1 - alpha) / (fixed + slope * gammas)
    best = int(rate.argmax())
    length = float(optimal_gamma(alpha, fixed, slope))
    near = {max(0, int(np.floor(length))), int(np.ceil(length))}
    # equal rates may tie: a neighbour must be as good as the best
    assert best in near or rate[sorted(near)].max() == pytest.approx(rate[best], rel=1e-12)


def test_edges_of_the_draft_length() -> None:
    assert optimal_gamma(0.8, 0.5, 1.0) == 0  # a < s
    assert optimal_gamma(0.0, 100.0, 1.0) == 0  # nothing accepted
    assert optimal_gamma(1e-9, 2.0, 1.0) == 0
    huge = float(optimal_gamma(0.5, 1e6, 1.0))  # where exp underflows
    assert 2 ** (huge + 1) - 1 == pytest.approx(np.log(2) * (1e6 + huge), rel=1e-6)


def test_with_a_fixed_budget_the_draft_length_grows_like_the_logarithm_of_context() -> None:
    contexts = 4096.0 * 2.0 ** np.arange(8)
    lengths = optimal_gamma(0.8, 5e-3 + contexts * 1e-6, 2e-3)
    steps = np.diff(lengths)
    assert (steps > 0).all()
    # a doubling adds at most ln 2 / lam tokens, and nearly so once a is much larger than s
    assert (steps < np.log(2) / -np.log(0.8)).all()
    assert steps[-1] > 0.8 * np.log(2) / -np.log(0.8)
