"""Webhooks: who wants to be told that work is done, and telling them, signed, until they have it."""
