"""quantop: quantizes models, measures what that cost, and serves them, on Kubernetes."""
