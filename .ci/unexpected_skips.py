"""Fails if a test was skipped for a reason that is not on the list: `python .ci/unexpected_skips.py JUNIT_XML`."""

import os
import re
import sys
from pathlib import Path
from xml.etree import ElementTree

# What a machine for continuous integration may lack or be; everything else, .ci/run installs.
ALLOWED = (
    r"no CUDA device",
    r"no OpenVINO device",
    r"no control group is delegated",
    r"may not mount a file system",
    r"the superuser may read everything",
)
# Reference data are not part of this repository; they may be missing only where they are not provided at all.
ALLOWED_WITHOUT_REFERENCE_DATA = (r"ORTOSCOPE_REFERENCE_DATA",)


def unexpected_skips(report: Path, *, reference_data: bool) -> list[str]:
    """The skipped tests of a JUnit report that no allowed reason covers.

    Args:
        report: The file that `pytest --junitxml` wrote.
        reference_data: Whether the reference data were there.

    Returns:
        One line for each, `test: reason`.
    """
    allowed = ALLOWED if reference_data else ALLOWED + ALLOWED_WITHOUT_REFERENCE_DATA
    found = []
    for case in ElementTree.parse(report).iter("testcase"):  # noqa: S314 - pytest's own file
        for skipped in case.iter("skipped"):
            reason = skipped.get("message", "")
            if not any(re.search(pattern, reason) for pattern in allowed):
                found.append(f"{case.get('classname')}::{case.get('name')}: {reason}")
    return found


def main() -> None:
    """Runs the command line."""
    found = unexpected_skips(Path(sys.argv[1]), reference_data="ORTOSCOPE_REFERENCE_DATA" in os.environ)
    if found:
        sys.exit("\n".join(["Skipped, though nothing may be missing here:", *found]))


if __name__ == "__main__":
    main()
