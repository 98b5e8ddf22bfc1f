"""Recipes: how shipped checkpoints were made. Not in the wheel: it needs a checkout."""
