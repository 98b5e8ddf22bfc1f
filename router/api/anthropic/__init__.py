"""Anthropic's Messages shape over the same calls: requests in, messages, events and errors out."""
