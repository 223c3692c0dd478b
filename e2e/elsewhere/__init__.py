"""Engines for other hardware than the cluster has: what the operator would start, started by hand.

`collect` runs beside the cluster and writes a folder: artifacts that the operator published, what
it measured, and the engine's container as the operator makes it. `serve` runs on a machine that has
the hardware and the engine, without Kubernetes and without this project's environment: it starts
each container's command, asks it, measures the perplexity through its API and ends it in
mid-answer. docs/guides/engines-elsewhere.md says what was seen.
"""
