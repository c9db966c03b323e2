"""What the report of a night says of a candidate that the gate let through."""

from infra.models.verdicts import Verdict
from tasks.champions.report import Report, Score, markdown


def test_a_candidate_whose_rollout_was_rolled_back_is_no_champion() -> None:
    score = Score(name="reward", champion=0, candidate=1, gain=1, low=1, high=1)
    verdict = Verdict(promote=True, checks=[], gain=1, confidence_interval=(1, 1))
    report = Report(
        run="r", model="m", resumed=False, collected={}, scores=[score], verdict=verdict,
        champion="1", candidate="2", served_from="/s", costs=[], examples=[], look_next={},
    )  # fmt: skip
    assert report.promoted and "**Version 2 is the new champion.**" in markdown(report)
    why = "not promoted: the rollout of version 2: it is worse by its errors"
    failed = report.model_copy(update={"not_promoted": why, "served_from": None})
    assert not failed.promoted and failed.reason == why
    text = markdown(failed)
    assert "**Version 1 stays champion.**" in text and "new champion" not in text
    assert f"The gate lets it through, but it is {why}." in text
    hostile = failed.model_copy(update={"not_promoted": "<b>![x](http://e.com/p.png)"})
    assert "![x](" not in markdown(hostile)
