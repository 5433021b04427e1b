"""Instruments that read a model and never train it."""
