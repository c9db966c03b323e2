"""The two commands that make and keep the services, for people and for scripts."""

import json
import signal
import urllib.request


def test_set_up_then_kept_up_until_ctrl_c(user) -> None:
    told = user.json("setup")
    assert told == {"home": str(user.home), "objects": f"{user.home.as_uri()}/objects"}
    user.wait_until_nothing_runs()

    kept = user.start("up", "--json")
    told = json.loads(kept.stdout.readline())
    assert told["home"] == str(user.home)
    code, out, err = user.run("setup")
    assert code == 0 and out == "" and str(user.home) in err, out + err

    another = user.start("up")
    lines = [another.stdout.readline() for _ in range(3)]
    assert lines[0].split() == ["Prefect", "UI", told["ui"]], "both use the same services"
    assert str(user.home) in lines[1] and "Ctrl-C" in lines[2]
    kept.send_signal(signal.SIGINT)
    out, err = kept.communicate(timeout=60)
    assert kept.returncode == 130 and out == "" and "Traceback" not in err, out + err

    with urllib.request.urlopen(told["ui"] + "/api/health", timeout=10) as answer:  # noqa: S310
        assert json.load(answer) is True, "they stay as long as somebody uses them"
    another.send_signal(signal.SIGINT)
    another.communicate(timeout=60)
    user.wait_until_nothing_runs()
