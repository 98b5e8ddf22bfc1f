"""The metrics of the api and the worker: their names, what they say and how several processes' values become one.

In: nothing. Out: the `Family` of each; the docs page lists them. Names follow vLLM's nouns; times are seconds.
"""

from __future__ import annotations

from typing import Final

from engines.metrics import SECONDS, SHORT, Family

_COUNTS: Final = (1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0)
_BYTES: Final = tuple(float(4**power) for power in range(5, 13))
_PIXELS: Final = tuple(float(4**power) for power in range(6, 14))
_RATIOS: Final = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)

REQUESTS: Final = Family(
    "glowl_http_requests_total", "counter", "Requests that were answered, by route and status.", ("path", "status")
)
REQUEST_TIME: Final = Family(
    "glowl_http_request_duration_seconds",
    "histogram",
    "From the headers of a request to the end of its answer.",
    ("path",),
    SECONDS,
)
IN_FLIGHT: Final = Family("glowl_http_requests_in_flight", "gauge", "Requests that are being answered.")
REFUSALS: Final = Family(
    "glowl_refusals_total",
    "counter",
    "Requests that were refused or failed, by the code in the answer and its status.",
    ("code", "status"),
)
LIMITS: Final = Family(
    "glowl_limits_refused_total", "counter", "Requests beyond a limit, by whose and which.", ("whose", "what")
)

DECISIONS: Final = Family(
    "glowl_decisions_total",
    "counter",
    "Questions by the way that they went, and the rule that sent them there.",
    ("route", "engine", "rule"),
)
ANSWERS: Final = Family(
    "glowl_answers_total",
    "counter",
    "Questions that have ended, by who answered, how they ended, and what the answer cache was to them.",
    ("route", "engine", "state", "cache"),
)
LATENCY: Final = Family(
    "glowl_e2e_request_latency_seconds",
    "histogram",
    "From a question to its final answer; answers from the cache are left out.",
    ("route", "engine"),
    SECONDS,
)
FIRST_TOKEN: Final = Family(
    "glowl_time_to_first_token_seconds",
    "histogram",
    "From a question to the first text of any answer to it.",
    ("route",),
    SECONDS,
)
PROMPT_TOKENS: Final = Family("glowl_prompt_tokens_total", "counter", "Tokens that engines read.", ("engine",))
GENERATION_TOKENS: Final = Family("glowl_generation_tokens_total", "counter", "Tokens that engines wrote.", ("engine",))
CACHE_QUERIES: Final = Family(
    "glowl_answer_cache_queries_total", "counter", "Questions that were looked up in the answer cache."
)
CACHE_HITS: Final = Family("glowl_answer_cache_hits_total", "counter", "Questions that were answered from it.")

REFINED: Final = Family(
    "glowl_refinements_total",
    "counter",
    "Drafts that were followed by a final answer: the `same` text, `reworded`, or one that says otherwise "
    "(`contradicted`).",
    ("change",),
)
AGREEMENT: Final = Family(
    "glowl_agreement_ratio", "histogram", "How far draft and final answer agree, 0 to 1.", (), _RATIOS
)
DRAFT_TO_FINAL: Final = Family(
    "glowl_draft_to_final_seconds", "histogram", "From the end of a draft to the final answer.", (), SECONDS
)
QUEUE_TIME: Final = Family(
    "glowl_request_queue_time_seconds",
    "histogram",
    "From the acceptance of a job to the beginning of a run for it, by queue.",
    ("queue",),
    SECONDS,
)
RUN_FIRST_TOKEN: Final = Family(
    "glowl_run_time_to_first_token_seconds",
    "histogram",
    "From the beginning of a run to its first text.",
    ("queue",),
    SECONDS,
)
RUN_TIME: Final = Family(
    "glowl_run_time_seconds", "histogram", "How long the last run of each part of a job took.", ("queue",), SECONDS
)
MERGE_TIME: Final = Family(
    "glowl_merge_time_seconds", "histogram", "From the beginning of a merge to the end of the job.", (), SECONDS
)

FETCH_TIME: Final = Family(
    "glowl_picture_fetch_seconds", "histogram", "How long a picture took to be downloaded.", ("outcome",), SHORT
)
PICTURE_BYTES: Final = Family("glowl_picture_bytes", "histogram", "Size of a picture as it was sent.", (), _BYTES)
PICTURE_PIXELS: Final = Family("glowl_picture_pixels", "histogram", "Width times height of a picture.", (), _PIXELS)
PICTURES: Final = Family("glowl_request_pictures", "histogram", "Pictures of a request that has some.", (), _COUNTS)

RETRIES: Final = Family(
    "glowl_run_retries_total",
    "counter",
    "Runs that were given back to be begun again, by queue and cause.",
    ("queue", "why"),
)
LEASES_LOST: Final = Family(
    "glowl_leases_lost_total", "counter", "Runs whose worker was not heard of any more, by queue.", ("queue",)
)
WEBHOOK_ATTEMPTS: Final = Family(
    "glowl_webhook_attempts_total",
    "counter",
    "Attempts to deliver a webhook: `succeeded`, to be tried again (`pending`), or given up (`failed`).",
    ("outcome",),
)
UNCOUNTED: Final = Family(
    "glowl_jobs_uncounted_total", "counter", "Jobs that ended while nobody asked for metrics for too long."
)

# Counted and timed by the process that shows them.
OWN: Final = (
    REQUESTS, REQUEST_TIME, IN_FLIGHT, REFUSALS, LIMITS,
    DECISIONS, ANSWERS, LATENCY, FIRST_TOKEN, PROMPT_TOKENS, GENERATION_TOKENS, CACHE_QUERIES, CACHE_HITS,
    REFINED, AGREEMENT, DRAFT_TO_FINAL, QUEUE_TIME, RUN_FIRST_TOKEN, RUN_TIME, MERGE_TIME,
    FETCH_TIME, PICTURE_BYTES, PICTURE_PIXELS, PICTURES,
    RETRIES, LEASES_LOST, WEBHOOK_ATTEMPTS, UNCOUNTED,
)  # fmt: skip

WAITING: Final = Family(
    "glowl_num_requests_waiting",
    "gauge",
    "Parts of jobs that wait for a worker, by queue and priority.",
    ("queue", "priority"),
    over="max",
)
RUNNING: Final = Family(
    "glowl_num_requests_running", "gauge", "Parts of jobs that workers run, by queue.", ("queue",), over="max"
)
OLDEST: Final = Family(
    "glowl_queue_oldest_age_seconds",
    "gauge",
    "Age of the oldest job with a part that waits for a worker.",
    ("queue", "priority"),
    over="max",
)
TAKEN: Final = Family(
    "glowl_requests_taken_total", "counter", "Parts of jobs that workers took from a queue.", ("queue",), over="max"
)
DELAYED: Final = Family(
    "glowl_num_requests_delayed", "gauge", "Parts of jobs that wait for their next try.", over="max"
)
SILENT: Final = Family(
    "glowl_num_leases_expired", "gauge", "Runs whose worker is silent, and that nobody took back yet.", over="max"
)
WEBHOOKS_DUE: Final = Family(
    "glowl_webhooks_due", "gauge", "Deliveries whose next attempt is due and was not begun.", over="max"
)
WEBHOOKS_WAITING: Final = Family(
    "glowl_webhooks_scheduled",
    "gauge",
    "Deliveries that have not ended: due, being attempted, or to be tried again.",
    over="max",
)
REDIS_MEMORY: Final = Family("glowl_redis_memory_used_bytes", "gauge", "Memory that redis uses.", over="max")
REDIS_MAX_MEMORY: Final = Family(
    "glowl_redis_memory_max_bytes", "gauge", "Memory that redis may use; 0: all there is.", over="max"
)
REDIS_UP: Final = Family(
    "glowl_redis_up", "gauge", "1 if redis answered this api when it was asked for metrics.", over="min"
)
ENGINE_UP: Final = Family(
    "glowl_engine_up", "gauge", "1 if an engine answered this api at its last look.", ("engine",), over="max"
)
ENGINE_SERVERS: Final = Family(
    "glowl_engine_servers_up", "gauge", "Servers of an engine that answered this api.", ("engine",), over="max"
)
ENGINE_WAITING: Final = Family(
    "glowl_engine_num_waiting", "gauge", "Requests that wait at an engine, as it says itself.", ("engine",), over="max"
)

# Looked up when somebody asks.
STORED: Final = (
    WAITING, RUNNING, OLDEST, TAKEN, DELAYED, SILENT, WEBHOOKS_DUE, WEBHOOKS_WAITING, REDIS_MEMORY, REDIS_MAX_MEMORY,
)  # fmt: skip
SEEN: Final = (REDIS_UP, ENGINE_UP, ENGINE_SERVERS, ENGINE_WAITING)
API: Final = (*OWN, *STORED, *SEEN)
