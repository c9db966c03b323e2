"""A SkyPilot that is played, for the tests of its launcher."""

from tests.helpers.providers import provider, sky, wanted

__all__ = ["provider", "sky", "wanted"]
