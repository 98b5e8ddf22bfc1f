"""Engines over HTTP: the server in front of one engine, the client and balancer that call it, and the wire between."""
