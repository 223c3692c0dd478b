"""The local cluster's own promises: it comes up, repairs itself, and goes without a trace."""
