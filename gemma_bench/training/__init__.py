"""Training: data, adapters, the trainer."""
