"""The embedded engine: continuous batching of rows behind unlike adaptations, on PyTorch."""
