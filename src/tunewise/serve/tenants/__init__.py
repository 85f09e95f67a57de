"""Who may do what, and how much of it: keys, rights, quotas, usage."""
