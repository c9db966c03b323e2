"""Champions that answer live: who may ask, what is served, and what becomes of the answers."""
