"""The `gemma-bench` command; only this shelf and report print."""
