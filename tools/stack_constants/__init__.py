"""Constants of serving stacks, fitted on published rows.

Folds are masks of rows and the fit is SciPy's: `coverage.held_out` leaves one group of rows out
after another, and `solve.solve` minimises soft-L1 logarithms within bounds. scikit-learn's
LeaveOneGroupOut would replace one line, `test = folds == fold`, by one of its own. lmfit wraps the
same SciPy call, and its standard errors assume independent errors of one size, which published
rows of a few sources do not have: intervals come from folds of whole sources instead.
"""
