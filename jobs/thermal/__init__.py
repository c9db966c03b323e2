"""The thermal simulation of buildings."""

EDITION = 2
"""Of the physics. It grows when the same design gets other loads: what an earlier edition simulated
is not learnt again."""
