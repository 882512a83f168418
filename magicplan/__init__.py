"""Roofline planning for LLM decoding."""
