"""Gemma 3: the catalog of sizes, where weights come from, one Backend protocol, torch and MLX."""
