"""A real Kubernetes on one machine, built from Go modules, in network namespaces of its own.

`python -m e2e.cluster` is the way in; `README.md` beside this file says what runs where.
The package needs the standard library only, so it works before the project's environment exists.
"""
