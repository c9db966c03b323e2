"""A line for each suite of tests, from the reports that pytest left.

python -m tests.helpers.summary build/tests flows control cloud train surrogate

It fails if a suite failed or left no report.
"""

import sys
from pathlib import Path
from xml.etree import ElementTree


def line(report: Path) -> tuple[str, bool]:
    """What to say of the suite, and whether all is well."""
    if not report.exists():
        return "did not run to its end", False
    (suite,) = ElementTree.parse(report).getroot()  # noqa: S314  our own pytest wrote it
    count = {name: int(suite.attrib[name]) for name in ("tests", "failures", "errors", "skipped")}
    failed = count["failures"] + count["errors"]
    passed = count["tests"] - failed - count["skipped"]
    text = (
        f"{passed:5} passed {failed:4} failed {count['skipped']:4} skipped "
        f"{float(suite.attrib['time']):6.0f} s"
    )
    return text, passed > 0 and not failed


def main(folder: str, *suites: str) -> int:
    lines = {suite: line(Path(folder, f"{suite}.xml")) for suite in suites}
    for suite, (text, well) in lines.items():
        print(f"{suite:10} {text}{'' if well else '   ✗'}")
    return 0 if all(well for _, well in lines.values()) else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
