"""Launches through SkyPilot."""
