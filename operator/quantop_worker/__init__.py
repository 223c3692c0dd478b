"""What runs inside quantop's Jobs and serving pods: resolve, fetch, publish, pull, delete."""
