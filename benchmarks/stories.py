"""First sentences of stories, for the pretrained stories260K to go on from."""

import hashlib

OPENERS = (
    "Once upon a time, there was a {} named {}.",
    "One day, a {} named {} was sad.",
    "A {} named {} lived in a big forest.",
    "There was a little {}. Her name was {}.",
)
WHO = "girl dog cat bird bear boy mouse fish".split()
NAMES = "Lily Tom Ben Sue Max Anna Tim Mia Sam Jack Lucy Spot".split()


def first_sentences() -> list[str]:
    """384 of them, in an order of chance that is always the same."""
    texts = [opener.format(who, name) for opener in OPENERS for who in WHO for name in NAMES]
    return sorted(texts, key=lambda text: hashlib.sha256(text.encode()).digest())
