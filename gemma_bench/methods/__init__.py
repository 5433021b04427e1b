"""One paper, one file: relora, rank_one, set_block."""
