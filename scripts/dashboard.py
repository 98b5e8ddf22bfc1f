"""Writes the Grafana dashboard: rows of panels, each a title, a unit and its expressions.

In: the tables below. Out: `deploy/grafana/dashboards/glowl.json`. `python -m scripts.dashboard` writes it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

OUT: Final = Path(__file__).resolve().parents[1] / "deploy/grafana/dashboards/glowl.json"
_SOURCE: Final = {"type": "prometheus", "uid": "glowl-prometheus"}
_WIDTH, _HEIGHT, _PER_ROW = 8, 7, 3

# What vLLM calls what our engine servers tell. It has no word for a decode step, a picture's time or the GPU.
VLLM: Final = {
    "glowl_engine_num_requests_running": "vllm:num_requests_running",
    "glowl_engine_num_requests_waiting": "vllm:num_requests_waiting",
    "glowl_engine_time_to_first_token_seconds": "vllm:time_to_first_token_seconds",
    "glowl_engine_time_per_output_token_seconds": "vllm:request_time_per_output_token_seconds",
    "glowl_engine_prompt_tokens_total": "vllm:prompt_tokens_total",
    "glowl_engine_generation_tokens_total": "vllm:generation_tokens_total",
    "glowl_engine_kv_cache_usage_ratio": "vllm:kv_cache_usage_perc",
    "glowl_engine_prefix_cache_queries_total": "vllm:prefix_cache_queries_total",
    "glowl_engine_prefix_cache_hits_total": "vllm:prefix_cache_hits_total",
    "glowl_engine_vision_cache_queries_total": "vllm:mm_cache_queries_total",
    "glowl_engine_vision_cache_hits_total": "vllm:mm_cache_hits_total",
}

_RATE: Final = "rate({}[$__rate_interval])"

# Title, unit, expressions with their legends.
Panel = tuple[str, str, list[tuple[str, str]]]


def of_any(name: str, form: str = "{}") -> str:
    """A metric of an engine in an expression, be the engine's server ours or vLLM."""
    suffix = "_bucket" if name.endswith("_bucket") else ""
    other = VLLM.get(name.removesuffix(suffix))
    return " or ".join(form.format(each) for each in (name, other and other + suffix) if each)


def percentiles(name: str, by: str = "") -> list[tuple[str, str]]:
    """P50, P95 and P99 of a histogram, by a label."""
    kept = f"le, {by}" if by else "le"
    legend = f"{{{{{by}}}}} " if by else ""
    rate = f"sum by ({kept}) ({of_any(f'{name}_bucket', _RATE)})"
    return [(f"histogram_quantile({q / 100}, {rate})", f"{legend}p{q}") for q in (50, 95, 99)]


def rate(name: str, by: str, legend: str = "") -> list[tuple[str, str]]:
    """How often a counter counts, by a label."""
    return [(f"sum by ({by}) ({of_any(name, _RATE)})", f"{{{{{by}}}}}{legend}")]


def share(part: str, whole: str, legend: str) -> tuple[str, str]:
    """One counter as a part of another."""
    return f"sum({of_any(part, _RATE)}) / sum({of_any(whole, _RATE)})", legend


ROWS: Final[list[tuple[str, list[Panel]]]] = [
    (
        "Alerts",
        [
            ("Alerts that fire", "short", [
                ('sum by (alertname) (ALERTS{alertstate="firing", alertname=~"Glowl.+"})', "{{alertname}}"),
            ]),
        ],
    ),
    (
        "Requests",
        [
            ("Questions by route and rule", "reqps", [
                ("sum by (route, rule) (rate(glowl_decisions_total[$__rate_interval]))", "{{route}} {{rule}}"),
            ]),
            ("Answers by state", "reqps", rate("glowl_answers_total", "state")),
            ("Refusals and failures by code", "reqps", rate("glowl_refusals_total", "code")),
            ("First text by route", "s", percentiles("glowl_time_to_first_token_seconds", "route")),
            ("End to end by route", "s", percentiles("glowl_e2e_request_latency_seconds", "route")),
            ("Requests in flight, and beyond limits", "short", [
                ("sum(glowl_http_requests_in_flight)", "in flight"),
                ("sum by (whose, what) (rate(glowl_limits_refused_total[$__rate_interval]))", "{{whose}} {{what}} /s"),
            ]),
        ],
    ),
    (
        "Draft and refinement",
        [
            ("Draft to final", "s", percentiles("glowl_draft_to_final_seconds")),
            ("Drafts by what became of them", "percentunit", [
                ("sum by (change) (rate(glowl_refinements_total[$__rate_interval])) / on () group_left () "
                 "sum(rate(glowl_refinements_total[$__rate_interval]))", "{{change}}"),
                share("glowl_refinements_total", "glowl_answers_total", "refined, of all answers"),
            ]),
            ("Agreement of draft and final", "percentunit", percentiles("glowl_agreement_ratio")),
        ],
    ),
    (
        "Pictures",
        [
            ("Picture fetch", "s", percentiles("glowl_picture_fetch_seconds", "outcome")),
            ("Picture decode", "s", percentiles("glowl_picture_decode_seconds", "engine")),
            ("Picture encode", "s", percentiles("glowl_picture_encode_seconds", "engine")),
            ("Picture size", "decbytes", percentiles("glowl_picture_bytes")),
            ("Picture pixels", "short", percentiles("glowl_picture_pixels")),
            ("Picture tokens", "short", percentiles("glowl_picture_tokens", "engine")),
        ],
    ),
    (
        "Queue",
        [
            ("Queue: what waits", "short", [
                ("max by (queue, priority) (glowl_num_requests_waiting)", "{{queue}} {{priority}}"),
                ("max(glowl_num_requests_delayed)", "delayed"),
            ]),
            ("Queue: age of the oldest", "s", [
                ("max by (queue) (glowl_queue_oldest_age_seconds)", "{{queue}}"),
            ]),
            ("Queue: accepted to claimed", "s", percentiles("glowl_request_queue_time_seconds", "queue")),
            ("Queue: claimed to first text", "s", percentiles("glowl_run_time_to_first_token_seconds", "queue")),
            ("Queue: runs and merges", "s", [
                *percentiles("glowl_run_time_seconds", "queue")[:2],
                *[(each, f"merge {legend}") for each, legend in percentiles("glowl_merge_time_seconds")[:2]],
            ]),
            ("Queue: running, retried, lost", "short", [
                ("max by (queue) (glowl_num_requests_running)", "{{queue}} running"),
                ("sum by (why) (rate(glowl_run_retries_total[$__rate_interval]))", "retried: {{why}} /s"),
                ("sum(rate(glowl_leases_lost_total[$__rate_interval]))", "lost /s"),
            ]),
        ],
    ),
    (
        "Engines",
        [
            ("Engine: up", "short", [
                ("max by (engine) (glowl_engine_up)", "{{engine}}"),
                ("max by (engine) (glowl_engine_servers_up)", "{{engine}} servers"),
            ]),
            ("Engine: running and waiting", "short", [
                (f"sum by (engine) ({of_any('glowl_engine_num_requests_running')})", "{{engine}} running"),
                (f"sum by (engine) ({of_any('glowl_engine_num_requests_waiting')})", "{{engine}} waiting"),
            ]),
            ("Engine: rows per step", "short", percentiles("glowl_engine_batch_rows", "engine")[:2]),
            ("Engine: first text", "s", percentiles("glowl_engine_time_to_first_token_seconds", "engine")),
            ("Engine: time per token", "s", percentiles("glowl_engine_time_per_output_token_seconds", "engine")),
            ("Engine: tokens", "short", [
                *rate("glowl_engine_prompt_tokens_total", "engine", " read /s"),
                *rate("glowl_engine_generation_tokens_total", "engine", " written /s"),
            ]),
            ("Engine: keys and values, GPU", "percentunit", [
                (f"max by (engine) ({of_any('glowl_engine_kv_cache_usage_ratio')})", "{{engine}} keys and values"),
                ("max by (instance) (glowl_gpu_utilization_ratio)", "{{instance}} GPU"),
                ("max by (instance) (glowl_gpu_memory_used_bytes / glowl_gpu_memory_total_bytes)",
                 "{{instance}} GPU memory"),
            ]),
            ("Caches: hits", "percentunit", [
                share("glowl_answer_cache_hits_total", "glowl_answer_cache_queries_total", "answers"),
                share("glowl_engine_prefix_cache_hits_total", "glowl_engine_prefix_cache_queries_total", "prefix"),
                share("glowl_engine_vision_cache_hits_total", "glowl_engine_vision_cache_queries_total", "pictures"),
            ]),
            ("Engine: requests by end", "reqps", rate("glowl_engine_requests_total", "outcome")),
        ],
    ),
    (
        "Webhooks, redis, processes",
        [
            ("Webhook attempts", "reqps", rate("glowl_webhook_attempts_total", "outcome")),
            ("Webhooks due", "short", [
                ("max(glowl_webhooks_due)", "due"),
                ("max(glowl_webhooks_scheduled)", "scheduled"),
            ]),
            ("Redis memory", "bytes", [
                ("max(glowl_redis_memory_used_bytes)", "used"),
                ("max(glowl_redis_memory_max_bytes > 0)", "limit"),
            ]),
            ("Redis answers", "short", [("min(glowl_redis_up)", "up")]),
            ("CPU", "short", [("rate(process_cpu_seconds_total[$__rate_interval])", "{{job}} {{instance}}")]),
            ("Memory", "bytes", [("process_resident_memory_bytes", "{{job}} {{instance}}")]),
        ],
    ),
]  # fmt: skip


def to_panel(number: int, panel: Panel, x: int, y: int) -> dict[str, Any]:
    """One graph."""
    title, unit, asked = panel
    return {
        "id": number,
        "type": "timeseries",
        "title": title,
        "datasource": _SOURCE,
        "gridPos": {"x": x, "y": y, "w": _WIDTH, "h": _HEIGHT},
        "fieldConfig": {"defaults": {"unit": unit, "min": 0, "custom": {"fillOpacity": 8}}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": [
            {"refId": chr(ord("A") + index), "expr": expression, "legendFormat": legend, "datasource": _SOURCE}
            for index, (expression, legend) in enumerate(asked)
        ],
    }


def dashboard() -> dict[str, Any]:
    """The whole of it."""
    panels: list[dict[str, Any]] = []
    y = 0
    for title, row in ROWS:
        place = {"x": 0, "y": y, "w": 24, "h": 1}
        panels.append({"id": len(panels) + 1, "type": "row", "title": title, "collapsed": False, "gridPos": place})
        y += 1
        for index, panel in enumerate(row):
            x = index % _PER_ROW * _WIDTH
            panels.append(to_panel(len(panels) + 1, panel, x, y + index // _PER_ROW * _HEIGHT))
        y += -(-len(row) // _PER_ROW) * _HEIGHT
    return {
        "uid": "glowl",
        "title": "Glowl",
        "tags": ["glowl"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "panels": panels,
    }


if __name__ == "__main__":
    OUT.write_text(json.dumps(dashboard(), indent=1, ensure_ascii=False) + "\n", "utf-8")
