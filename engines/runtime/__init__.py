"""What the local engines share below HTTP: batching, caches, sampling and picture decoding. Needs torch."""
