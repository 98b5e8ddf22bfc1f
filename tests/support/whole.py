"""How much of the large tests runs: ``GLOWL_TEST_WHOLE=1``, as `make test-whole` sets it, runs all of each.

Without it each runs the part that still meets everything it is about; the test says what that is.
"""

from __future__ import annotations

import os

VARIABLE = "GLOWL_TEST_WHOLE"
IS_WHOLE = os.environ.get(VARIABLE) == "1"
