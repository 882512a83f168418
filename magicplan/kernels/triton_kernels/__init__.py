"""Triton kernels and their launchers; typed loosely, for Triton's language is not Python's."""

import os

# said outright, because Triton is about to change its default and warns until it is said
os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")
