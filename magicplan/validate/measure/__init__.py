"""Clocks, ceilings, environment and benches: what times the decoder."""
