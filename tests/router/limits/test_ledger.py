"""Eight processes with one key, one of them killed in the middle: exactly the limit is admitted, and written down."""

from __future__ import annotations

import sys
from pathlib import Path

import redis

from router.limits.limits import Limits
from router.limits.meters import to_subject
from router.lua.constants import MINUTE_US
from tests.support.servers import Process, RedisProcess, wait_until

NUM_PROCESSES = 8
NUM_CALLS = 1250
LIMITS = Limits(requests_per_minute=3000, tokens_per_minute=100_000_000)
OWNER = to_subject("owner", "somebody", LIMITS)

# Time stands still, so that nothing is paid back while the processes run. Of each four requests, one ends having used 7
# of its 20 tokens, one ends twice, and two never end.
CALLER = f"""
import sys
import redis
from router.lua import LimitScript, load
from router.redis import PREFIX

NOW, SIZE = "1800000000.0", 25
url, number = sys.argv[1:]
client = redis.Redis.from_url(url)
charge, settle = (client.script_load(load(script).text) for script in (LimitScript.CHARGE, LimitScript.SETTLE))
assert load(LimitScript.CHARGE).arguments[:4] == ("now", "id", "owner", "lease_s")

def run(sha, calls):
    pipeline = client.pipeline(transaction=False)
    for call in calls:
        pipeline.evalsha(sha, 1, PREFIX, NOW, *call)
    return pipeline.execute()

for start in range(0, {NUM_CALLS}, SIZE):
    names = [f"{{number}}-{{call}}" for call in range(start, start + SIZE)]
    subject = ["{OWNER.name}", {LIMITS.requests_per_minute}, "", "", {LIMITS.tokens_per_minute}, ""]
    found = run(charge, [[name, "{OWNER.name}", 15, 1, 2, 3, 20, *subject] for name in names])
    pages = [reply.decode().split()[0] for reply in found]
    taken = [f"{{page}}:{{name}}" for name, page in zip(names, pages, strict=True) if page != "-"]
    ended = [reference for at, reference in enumerate(taken) for _ in range((2, 1, 0, 0)[at % 4])]
    run(settle, [[reference, 7, "", ""] for reference in ended])
"""


def test_exactly_the_limit_is_admitted_also_if_a_process_is_killed(redis_process: RedisProcess, tmp_path: Path) -> None:
    url = redis_process.url.replace("db=0", "db=5")
    with redis.Redis.from_url(url) as client:
        client.flushdb()
        page = f"glowl:ledger:{OWNER.name}:30000000"
        callers = [
            Process([sys.executable, "-c", CALLER, url, str(number)], tmp_path / f"{number}.log")
            for number in range(NUM_PROCESSES)
        ]
        wait_until(lambda: client.hlen(page) > 300, "the first requests")
        callers[0].kill()
        for caller in callers[1:]:
            assert caller.child.wait(300) == 0, caller.log.read_text()
            caller.stop()

        entries = [entry.split() for entry in client.hvals(page)]
        meter = client.hgetall(f"glowl:meter:{OWNER.name}")

    assert len(entries) == LIMITS.requests_per_minute
    assert {(each[0], each[4]) for each in entries} == {(b"held", b"20"), (b"settled", b"7")}
    # The ledger is the sum of the records, and what is owed is the sum of the ledger.
    assert int(meter[b"requests"]) == len(entries) * MINUTE_US
    assert int(meter[b"tokens"]) == sum(int(each[4]) for each in entries) * MINUTE_US
