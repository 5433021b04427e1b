"""Every citation, with its version, and every headline: the published sentence that a group of claims is about."""

# Headlines
ARCHITECTURE = "Gemma 3 is built as described"
SPEED = "75 tok/s, 4-bit, M3 Ultra"
SET_BLOCK = "3–5× faster decoding, no loss"
CAPACITY = "3.6 bits per parameter"
RELORA = "saves 5.5 GB, 9–40 % faster, high rank through low-rank updates"
RANK_ONE = "rank-1 merges act like full-rank updates"

# Sources of the claims
STUDY = "Gemma Deep Architecture Study on M3 Ultra, 2025-09-12"
GEMMA3_REPORT = "Gemma Team, Gemma 3 Technical Report, arXiv:2503.19786v1"
GEMMA3_CODE = "transformers 5.23.0, models/gemma3 (converter and configuration); mlx-lm 0.32.2, models/gemma3_text.py"
MLX_QUANTIZE = "mlx 0.32.4, mlx.core.quantize: affine, one scale and one bias per group"
APPLE_M3_ULTRA = "Apple M3 Ultra, technical specifications, March 2025 (819 GB/s; 80 GPU cores; 256 GB)"
LLAMA_CPP = "llama.cpp, as llama-cpp-python 0.3.36 builds it; its Q4_K_M keeps the perplexity of the original"
MLX_LM = "mlx-lm 0.32.2, generate.py: generation_tps is tokens over the time since the first of them"
ROOFLINE = "Williams, Waterman, Patterson, Roofline, Communications of the ACM 52(4), 2009"
SET_BLOCK_PAPER = "Gat et al., Set Block Decoding is a Language Model Inference Accelerator, arXiv:2509.04185v1"
EB_SAMPLER = (
    "Ben-Hamu et al., Accelerated Sampling from Masked Diffusion Models via Entropy Bounded Unmasking, arXiv:2505.24857"
)
FAST_DLLM = "Wu et al., Fast-dLLM, arXiv:2505.22618: the largest n with (n + 1)(1 − c_n) < f"
MORRIS = "Morris et al., How much do language models memorize?, arXiv:2505.24832v3"
RANK_ONE_ALGEBRA = "algebra: a linear layer's gradient is δᵀX; W + s·B·A with B = 0 moves along G·Aᵀ·A"
RELORA_PAPER = "Lialin et al., ReLoRA: High-Rank Training Through Low-Rank Updates, arXiv:2307.05695v4"
RELORA_CODE = "Guitaricet/relora, configs/llama_60m.json … llama_1b.json; relora.py: the seven matrices of every layer"
BFLOAT16 = "bfloat16: 8 bits of significand, so that a sum keeps no term below half a 256th of its size"
EFFECTIVE_RANK = "Roy and Vetterli, The effective rank, EUSIPCO 2007: exp of the entropy of σ/Σσ"
