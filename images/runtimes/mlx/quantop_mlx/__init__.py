"""mlx-lm as an engine of quantop_serving."""
