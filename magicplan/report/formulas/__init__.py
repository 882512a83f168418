"""The closed forms behind a prediction."""
