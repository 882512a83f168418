"""The pages of a capacity plan."""
