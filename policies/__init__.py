"""The policy: pure functions and data that choose a route. In: a question and the caller's hints. Out: a decision."""
