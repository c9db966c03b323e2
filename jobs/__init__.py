"""Programs that run as jobs, each in the environment of its capability."""

import sys

# PEFT imports bitsandbytes wherever it is installed, and again for each adapter: more than a second
# of every job, for what only weights of 4 bits need. jobs.policy.model takes it back for those.
sys.modules.setdefault("bitsandbytes", None)  # pyright: ignore[reportArgumentType]
