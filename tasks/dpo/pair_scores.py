"""What held-out pairs say of base, champion and candidate."""

from typing import Any

from tasks.champions import publish
from tasks.champions.report import Score


def pair_scores(pairs: list[dict[str, Any]], beta: float) -> list[Score]:
    """How often each policy ranks held-out pairs right: by its implicit reward, β times the
    log-ratio to the base, and by its likelihood a token. Pairs of one prompt (or group) err
    together."""

    def right(difference: float) -> float:
        return 0.5 if difference == 0 else float(difference > 0)

    measures: dict[str, list[dict[str, Any]]] = {"pairs by reward": [], "pairs by likelihood": []}
    for pair in pairs:
        by_reward, by_likelihood = {}, {}
        for side in ("base", "champion", "candidate"):
            (chosen, rejected), base = pair[side], pair["base"]
            margin = beta * ((chosen - base[0]) - (rejected - base[1]))
            by_reward[side] = {"right": right(margin)}
            per_token = chosen / pair["tokens"][0] - rejected / pair["tokens"][1]
            by_likelihood[side] = {"right": right(per_token)}
        measures["pairs by reward"].append(by_reward)
        measures["pairs by likelihood"].append(by_likelihood)
    groups = [pair["group"] for pair in pairs]
    return [
        publish.score(rows, "right", groups).model_copy(update={"name": name})
        for name, rows in measures.items()
    ]
