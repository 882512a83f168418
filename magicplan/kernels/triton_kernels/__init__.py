"""Triton kernels and their launchers; typed loosely, for Triton's language is not Python's."""
