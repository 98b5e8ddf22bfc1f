"""Unmodified clients of others, which join every piece of text they get."""
