"""`python -m gemma_bench` is `gemma-bench`."""

from gemma_bench.cli.app import main

main()
