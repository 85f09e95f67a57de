"""Several servers behind one address, through Ray Serve; the extra `ray`."""
