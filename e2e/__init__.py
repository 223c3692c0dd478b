"""The product driven as users drive it: a local cluster, scenarios, benchmarks and the demo."""
