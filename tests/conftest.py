"""Hypothesis without deadlines: shared machines are slow at times, and no test is a clock."""

from hypothesis import HealthCheck, settings

settings.register_profile("suite", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")
