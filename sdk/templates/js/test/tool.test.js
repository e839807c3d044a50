import assert from "node:assert/strict";
import test from "node:test";

import { Answer, Failure, serve } from "../fumehood.js";
import { forecast } from "../tool.js";

/** An HTTP client that gives one answer, or fails. */
function answering(status, body, headers = {}) {
  const encode = (text) => new TextEncoder().encode(text);
  const chunks = [encode(body)];
  const response = {
    status: () => status,
    headers: () => ({ get: (name) => (name in headers ? [encode(headers[name])] : []) }),
    consume: () => ({
      stream: () => ({
        blockingRead() {
          if (chunks.length) return chunks.shift();
          throw { tag: "closed" };
        },
      }),
    }),
  };
  return { http: { get: () => new Answer("api.forecast.example", response) } };
}

function call(host, args) {
  return serve([forecast], host).call({ tool: "forecast", arguments: JSON.stringify(args) });
}

test("each day is a line", () => {
  const body = { city: "Tromsø", days: [{ date: "2030-06-01", summary: "rain", low: 8, high: 12.5 }] };
  const output = call(answering(200, JSON.stringify(body)), { city: "Tromsø" });
  assert.equal(output.content[0].val, "Tromsø\n2030-06-01: rain, 8 to 12.5 °C");
  assert.deepEqual(JSON.parse(output.structured), body);
});

test("failures say what kind they are", () => {
  const failure = (host, args = { city: "Bergen" }) => {
    try {
      call(host, args);
    } catch (error) {
      return error;
    }
  };
  assert.equal(failure(answering(200, "{}"), { city: " " }).tag, "invalid-arguments");
  assert.equal(failure(answering(404, "")).tag, "not-found");
  assert.deepEqual(failure(answering(429, "", { "retry-after": "30" })).val.afterMs, 30000);
  assert.equal(failure(answering(200, "<html>")).tag, "failed");
  const denied = { http: { get: () => { throw Failure.denied("no rule"); } } };
  assert.deepEqual(failure(denied), { tag: "denied", val: "no rule" });
});

test("the definition is complete", () => {
  const [definition] = serve([forecast], {}).definitions();
  assert.equal(definition.name, "forecast");
  assert.deepEqual(JSON.parse(definition.inputSchema).required, ["city"]);
  assert.equal(definition.effect, "pure");
});
