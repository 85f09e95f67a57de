"""The one base model: resolve, load, shared prefix, generate and score, train, count work."""
