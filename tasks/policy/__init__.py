"""What capabilities share whose model is a language model."""

KIND = "policy"
"""Of the registered versions: an adapter, or the untouched base that it stands on."""
