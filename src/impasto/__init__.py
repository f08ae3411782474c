"""Impasto: text-to-image synthesis with sparse experts."""

__version__ = "0.1.0"
