"""Placeholder until the object store lands: copies, no checks."""
