"""Many tiny transformers trained at once: one row of one matrix is one model."""
