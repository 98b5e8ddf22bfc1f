"""Pictures for agents: an MCP server in front of a running service, asked over its public API."""
