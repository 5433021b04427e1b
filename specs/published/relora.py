"""Published figures of chapter 4 (Lialin et al., arXiv:2307.05695v4, ablation at 130M on C4, validation perplexity)."""

ABLATION_130M_PERPLEXITY = {"LoRA": 34.17, "warm start": 25.46, "ReLoRA": 25.04, "full rank": 23.65}
