"""Hypothesis without deadlines: shared machines are slow at times, and no test is a clock."""

from hypothesis import settings

settings.register_profile("suite", deadline=None)
settings.load_profile("suite")
