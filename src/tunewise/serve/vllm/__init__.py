"""An engine that answers through a vLLM server, for scale."""
