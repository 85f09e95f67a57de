"""The server: OpenAI's interface in front of an engine, a registry and tenants."""
