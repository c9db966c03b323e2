"""Surrogates of building energy: retraining, collecting of observations, search for designs."""

KIND = "surrogate"
"""Of the registered versions: networks in ONNX with their calibration."""
