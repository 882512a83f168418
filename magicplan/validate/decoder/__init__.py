"""The real speculative decoder that is measured."""
