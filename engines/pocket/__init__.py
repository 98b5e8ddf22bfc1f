"""Small checkpoints of both true architectures, for machines without the real weights."""
