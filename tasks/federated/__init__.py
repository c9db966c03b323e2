"""Federated rounds: tenants improve one model, and nobody sees anybody's data."""

KIND = "federated"
"""Of the registered versions: weights that tenants have trained together."""
