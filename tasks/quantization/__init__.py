"""Quantised variants of a policy's champion, measured side by side."""
