"""How good an answer is: one number for each, the higher the better.

This one wants the word `must` of the prompt's line in a short answer that ends as a sentence does.
`reward` is called with lists of the same length: the prompts, the answers, and every other field of
the lines of prompts.jsonl by its name. It must not fail for any answer, an empty one neither.
"""


def reward(prompts, completions, must, **columns):
    """From 0 to 1: half for the word, a quarter each for brevity and for the end of a sentence."""
    return [score(text, word) for text, word in zip(completions, must, strict=True)]


def score(text, word):
    has_word = word.lower() in text.lower()
    is_short = 0 < len(text.split()) <= 25
    is_sentence = text.strip().endswith((".", "!", "?"))
    return 0.5 * has_word + 0.25 * is_short + 0.25 * is_sentence
