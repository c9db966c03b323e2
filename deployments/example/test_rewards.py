"""Try the reward before a night is paid for: python3 -m unittest"""

import json
import unittest
from pathlib import Path

from rewards import reward

PROMPTS = [
    json.loads(line)
    for line in (Path(__file__).parent / "prompts.jsonl").read_text("utf-8").splitlines()
]


class RewardTest(unittest.TestCase):
    def one(self, answer, must="night"):
        (score,) = reward(prompts=["?"], completions=[answer], must=[must])
        return score

    def test_a_better_answer_gets_more(self):
        self.assertEqual(self.one("The night is long."), 1)
        self.assertLess(self.one("The day is long."), self.one("The night is long."))
        self.assertLess(self.one("The night is long. " * 20), self.one("The night is long."))

    def test_no_answer_makes_it_fail(self):
        for strange in ("", " ", "\n", "🌙", "night"):
            self.assertTrue(0 <= self.one(strange) <= 1)

    def test_every_prompt_has_what_the_reward_reads(self):
        columns = {name: [line[name] for line in PROMPTS] for name in ("prompt", "must")}
        scores = reward(columns["prompt"], columns["prompt"], must=columns["must"])
        self.assertEqual(len(scores), len(PROMPTS))


if __name__ == "__main__":
    unittest.main()
