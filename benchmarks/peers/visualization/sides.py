"""How a side is asked: a JSON object a line on its standard input, answered by a JSON line each.

Between two requests a side waits in a read, while others run. Imported by several interpreters; needs nothing.
"""

import json
import os
import sys
from collections.abc import Callable
from typing import Any

Answer = Callable[[dict[str, Any]], list[float]]


def serve(answer: Answer) -> None:
    """Answers until the standard input ends; what libraries print goes to the standard error."""
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    for line in sys.stdin:
        replies.write(json.dumps(answer(json.loads(line))) + "\n")
        replies.flush()
