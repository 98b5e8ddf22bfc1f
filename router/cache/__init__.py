"""Answers that are given again: when two requests are the same, what is kept of an answer, and where."""
