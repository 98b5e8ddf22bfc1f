"""Traces: spans of what each process does for a request, as OpenTelemetry has them."""
