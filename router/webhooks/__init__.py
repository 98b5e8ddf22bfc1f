"""Webhooks: telling a caller's server that its work is done."""
