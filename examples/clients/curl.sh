#!/usr/bin/env bash
# curl: text, a picture, two pictures as a job, a stream, structured output, a function.
#
# In the clone's folder while `glowl up` runs: bash examples/clients/curl.sh. It needs python3 for reading JSON.
set -euo pipefail

url="${GLOWL_URL:-http://127.0.0.1:8000}/v1/responses"
header=(-H "Content-Type: application/json" -H "Authorization: Bearer ${GLOWL_API_KEY:-none}")

# ask TEXT FIELDS [PICTURE...]: posts a question with more fields of the body, such as '"stream": true'.
ask() {
  local text="$1" fields="$2" content name
  shift 2
  content="{\"type\": \"input_text\", \"text\": \"$text\"}"
  for name in "$@"; do
    content+=", {\"type\": \"input_image\", \"detail\": \"auto\", \"image_url\": \"data:image/png;base64,"
    content+="$(base64 <"engines/pocket/samples/$name" | tr -d '\n')\"}"
  done
  curl -sS --fail-with-body "$url" "${header[@]}" -d @- <<EOF
{"model": "glowl", $fields, "input": [{"role": "user", "content": [$content]}]}
EOF
}

# read_json EXPRESSION: prints a part of the object `r` on stdin; `text(r)` is its answer.
read_json() {
  python3 -c '
import json, sys
def text(r):
    return "".join(part["text"] for item in r["output"] if item["type"] == "message" for part in item["content"])
r = json.load(sys.stdin)
print(eval(sys.argv[1]))' "$1"
}

echo "text: $(ask "你好" '"stream": false' | read_json 'text(r)')"

echo "picture: $(ask "图中的菱形是什么颜色的？" '"stream": false' colour.png | read_json 'text(r)')"

id="$(ask "Which of the two pictures shows more blue shapes?" '"background": true' more-1.png more-2.png | read_json 'r["id"]')"
while answer="$(curl -sS --fail-with-body "$url/$id" "${header[@]}")"; do
  case "$(read_json 'r["status"]' <<<"$answer")" in queued | in_progress) sleep 0.5 ;; *) break ;; esac
done
echo "job: $(read_json 'text(r)' <<<"$answer")"

question="What colour is the shape left of the smallest diamond?"
echo "stream: $(ask "$question" '"stream": true' beside.png \
  | sed -n 's/^data: //p' | grep '"type":"response.output_text.delta"' \
  | while read -r event; do read_json 'r["delta"]' <<<"$event"; done | tr -d '\n')"

schema='{"type": "object", "properties": {"count": {"type": "integer", "minimum": 0, "maximum": 20}}, "required": ["count"],
  "additionalProperties": false}'
format="\"text\": {\"format\": {\"type\": \"json_schema\", \"name\": \"shapes\", \"schema\": $schema}}"
echo "structured: $(ask "一共有多少个图形？" "$format" count.png | read_json 'json.loads(text(r))["count"]')"

clock='{"type": "function", "name": "clock", "description": "The time of a place.", "parameters": {"type": "object",
  "properties": {"place": {"type": "string", "enum": ["Paris", "Beijing"]}}, "required": ["place"]}}'
# Named as tool_choice, it must be called; the pocket models were not taught to call one by themselves.
fields="\"tools\": [$clock], \"tool_choice\": {\"type\": \"function\", \"name\": \"clock\"}"
called='next(item["name"] for item in r["output"] if item["type"] == "function_call")'
echo "tools: $(ask "What time is it in Paris?" "$fields" | read_json "$called")"
