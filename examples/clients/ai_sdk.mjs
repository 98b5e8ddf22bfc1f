// Vercel's AI SDK: text, a picture, two pictures as a job, a stream, structured output, a function.
//
// npm install ai @ai-sdk/openai zod, then in the clone's folder while `glowl up` runs: node examples/clients/ai_sdk.mjs
// The AI SDK knows no job to poll: it waits for the answer of one.
import { readFileSync } from "node:fs";
import { createOpenAI } from "@ai-sdk/openai";
import { generateText, Output, streamText, tool } from "ai";
import { z } from "zod";

const url = process.env.GLOWL_URL ?? "http://127.0.0.1:8000";
const model = createOpenAI({ baseURL: `${url}/v1`, apiKey: process.env.GLOWL_API_KEY ?? "none" })("glowl");

function ask(text, ...pictures) {
  const parts = pictures.map((name) => ({
    type: "file",
    data: readFileSync(`engines/pocket/samples/${name}`),
    mediaType: "image/png",
  }));
  return [{ role: "user", content: [{ type: "text", text }, ...parts] }];
}

console.log("text:", (await generateText({ model, messages: ask("你好") })).text);

let messages = ask("图中的菱形是什么颜色的？", "colour.png");
console.log("picture:", (await generateText({ model, messages })).text);

messages = ask("Which of the two pictures shows more blue shapes?", "more-1.png", "more-2.png");
console.log("job:", (await generateText({ model, messages })).text);

messages = ask("What colour is the shape left of the smallest diamond?", "beside.png");
let joined = "";
for await (const piece of streamText({ model, messages }).textStream) joined += piece;
console.log("stream:", joined);

messages = ask("一共有多少个图形？", "count.png");
const output = Output.object({ schema: z.object({ count: z.number().int().min(0).max(20) }) });
console.log("structured:", (await generateText({ model, messages, output })).output.count);

const clock = tool({ description: "The time of a place.", inputSchema: z.object({ place: z.enum(["Paris", "Beijing"]) }) });
// Named as toolChoice, it must be called; the pocket models were not taught to call one by themselves.
const toolChoice = { type: "tool", toolName: "clock" };
const called = await generateText({ model, messages: ask("What time is it in Paris?"), tools: { clock }, toolChoice });
console.log("tools:", called.toolCalls[0].toolName);
