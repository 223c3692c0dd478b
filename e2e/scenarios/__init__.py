"""What users do and what must come of it, on the real cluster with the real operator.

Run by ``make e2e``, or singly: ``e2e/cluster/exec pytest e2e/scenarios -k rolling``.
"""
