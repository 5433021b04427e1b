"""Ordinary asv benchmarks; every series is lower-is-better, because asv knows no other direction."""
