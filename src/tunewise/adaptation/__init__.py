"""What a method produces: parts, store, apply, train, export."""
