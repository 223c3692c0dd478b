"""Measurements on the running cluster, printed as ratios: ``make bench``.

Nothing here passes or fails; each benchmark prints what it measured beside its goal.
"""
