// AI SDK as its users call it. In: the base URL, the model and a JSON list of turns as arguments. Out: per turn, one line
// of JSON with the text that the package joined, and its reasoning.
import { streamText } from "ai";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";

const [kind, baseURL, model, turns] = process.argv.slice(2);
const provider =
  kind === "openai"
    ? createOpenAI({ baseURL, apiKey: "unused" })
    : createOpenAICompatible({ name: "glowl", baseURL, apiKey: "unused" });
const messages = [];
for (const { text, pictures } of JSON.parse(turns)) {
  const parts = pictures.map((each) => ({ type: "image", image: Buffer.from(each, "base64"), mediaType: "image/png" }));
  messages.push({ role: "user", content: [{ type: "text", text }, ...parts] });
  let joined = "";
  let thought = "";
  const result = streamText({ model: provider(model), messages, maxRetries: 0, onError: () => {} });
  for await (const part of result.fullStream) {
    if (part.type === "text-delta") joined += part.text;
    if (part.type === "reasoning-delta") thought += part.text;
    if (part.type === "error") throw part.error;
  }
  messages.push(...(await result.response).messages);
  console.log(JSON.stringify({ joined, thought, text: await result.text }));
}
