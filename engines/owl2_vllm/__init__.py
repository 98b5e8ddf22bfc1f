"""mPLUG-Owl2 on vLLM: a distribution of its own (``glowl-owl2-vllm``), and an engine for the server of `engines.http`.

Prompts, ids, pixels, vision tower and abstractor are those of `engines.owl2`; decoder layers, paged attention and the
running batch are vLLM's. Nothing of the product imports this package, and importing it imports nothing heavy.
"""
