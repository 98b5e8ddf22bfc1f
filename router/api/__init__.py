"""The public HTTP API: wire shapes in, OpenAI-compatible objects, streams and errors out."""
