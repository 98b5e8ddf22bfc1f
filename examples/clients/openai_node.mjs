// The `openai` package for Node: text, a picture, two pictures as a job, a stream, structured output, a function.
//
// npm install openai, then in the clone's folder while `glowl up` runs: node examples/clients/openai_node.mjs
import { readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import OpenAI from "openai";

const url = process.env.GLOWL_URL ?? "http://127.0.0.1:8000";
const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: process.env.GLOWL_API_KEY ?? "none" });
const model = "glowl";

function ask(text, ...pictures) {
  const content = [{ type: "input_text", text }];
  for (const name of pictures) {
    const data = readFileSync(`engines/pocket/samples/${name}`).toString("base64");
    content.push({ type: "input_image", image_url: `data:image/png;base64,${data}`, detail: "auto" });
  }
  return [{ role: "user", content }];
}

let response = await client.responses.create({ model, input: ask("你好") });
console.log("text:", response.output_text);

response = await client.responses.create({ model, input: ask("图中的菱形是什么颜色的？", "colour.png") });
console.log("picture:", response.output_text);

let input = ask("Which of the two pictures shows more blue shapes?", "more-1.png", "more-2.png");
response = await client.responses.create({ model, input, background: true });
while (response.status === "queued" || response.status === "in_progress") {
  await sleep(500);
  response = await client.responses.retrieve(response.id);
}
console.log("job:", response.output_text);

input = ask("What colour is the shape left of the smallest diamond?", "beside.png");
let joined = "";
for await (const event of client.responses.stream({ model, input })) {
  if (event.type === "response.output_text.delta") joined += event.delta;
}
console.log("stream:", joined);

const schema = {
  type: "object",
  properties: { count: { type: "integer", minimum: 0, maximum: 20 } },
  required: ["count"],
  additionalProperties: false,
};
const text = { format: { type: "json_schema", name: "shapes", schema, strict: true } };
response = await client.responses.parse({ model, input: ask("一共有多少个图形？", "count.png"), text });
console.log("structured:", response.output_parsed.count);

const clock = {
  type: "function",
  name: "clock",
  description: "The time of a place.",
  parameters: {
    type: "object",
    properties: { place: { type: "string", enum: ["Paris", "Beijing"] } },
    required: ["place"],
    additionalProperties: false,
  },
  strict: true,
};
// Named as tool_choice, it must be called; the pocket models were not taught to call one by themselves.
const tool_choice = { type: "function", name: "clock" };
response = await client.responses.create({ model, input: "What time is it in Paris?", tools: [clock], tool_choice });
const call = response.output.find((item) => item.type === "function_call");
input = [{ type: "function_call_output", call_id: call.call_id, output: "14:05" }];
await client.responses.create({ model, input, previous_response_id: response.id, tools: [clock] });
console.log("tools:", call.name);
