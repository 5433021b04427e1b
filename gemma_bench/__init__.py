"""Research claims about Gemma 3 as executable specs, and the compact library under them."""

__version__ = "0.1.0"
