"""How each architecture family departs from Llama: one table of traits, and functions where a table
does not suffice."""
