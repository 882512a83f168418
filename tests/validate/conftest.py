"""One torch thread: beside a busy neighbour, two threads wait for each other by spinning."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)
