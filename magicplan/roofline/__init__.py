"""The roofline: traffic of a forward pass, its time on a machine, what speculation makes of it.

Read `traffic`, `timing` and `speculation` in this order; the rest is input to them.
Every function takes floats or NumPy arrays; `traffic` and `timing` take sympy symbols as well,
through their `xp` argument, which holds the three functions that are not arithmetic:
`maximum`, `minimum` and `where`.
"""
