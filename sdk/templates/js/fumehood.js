// From functions to tools: what lies between `tool.js` and the contract in `wit/`.
// Nothing here knows your tools; change it if your tools need more of the contract.

/** Why a tool has no result. The message is for the model: what happened, why, and what to do instead. */
export class Failure extends Error {
  /** @param {"invalid-arguments"|"denied"|"not-found"|"unavailable"|"failed"} kind */
  constructor(kind, message, afterMs = null) {
    super(message);
    this.kind = kind;
    this.afterMs = afterMs;
  }
  static invalidArguments(message) { return new Failure("invalid-arguments", message); }
  static denied(message) { return new Failure("denied", message); }
  static notFound(message) { return new Failure("not-found", message); }
  /** `afterMs`: when trying again may help, in milliseconds, if it is known. */
  static unavailable(message, afterMs = null) { return new Failure("unavailable", message, afterMs); }
  static failed(message) { return new Failure("failed", message); }
}

/**
 * What the component exports as `tools`. Each tool is an object:
 *
 * - `name`, `description`, `title?`: what the model reads;
 * - `input`, `output?`: JSON Schemas; the host checks arguments against `input` before it calls;
 * - `effect?` (`"pure"`, `"idempotent"`, else `"at-most-once"`), `readOnly?`, `destructive?`, `openWorld?`;
 * - `run(arguments, host)`: returns a string, or `{ text, structured? }`; throws a `Failure`. Anything else that it throws
 *   becomes `failed`. `host.http` makes requests.
 */
export function serve(tools, host) {
  return {
    definitions: () => tools.map((tool) => ({
      name: tool.name,
      title: tool.title ?? null,
      description: tool.description,
      inputSchema: JSON.stringify(tool.input),
      outputSchema: tool.output ? JSON.stringify(tool.output) : null,
      effect: tool.effect ?? "at-most-once",
      readOnly: tool.readOnly ?? false,
      destructive: tool.destructive ?? false,
      openWorld: tool.openWorld ?? false,
    })),
    call: (request) => {
      try {
        const tool = tools.find((tool) => tool.name === request.tool);
        if (!tool) throw Failure.notFound(`there is no tool ${request.tool}`);
        return output(tool.run(JSON.parse(request.arguments), host));
      } catch (error) {
        throw toWit(error);
      }
    },
  };
}

function output(result) {
  const { text, structured } = typeof result === "string" ? { text: result } : result;
  return {
    content: [{ tag: "text", val: text }],
    structured: structured === undefined ? null : JSON.stringify(structured),
    isError: false,
  };
}

function toWit(error) {
  if (!(error instanceof Failure)) return { tag: "failed", val: String(error?.message ?? error) };
  const { kind, message, afterMs } = error;
  return { tag: kind, val: kind === "unavailable" ? { message, afterMs } : message };
}

/** `Math.random` over `wasi:random`. */
export function randomOver(random) {
  return () => random.getRandomBytes(6).reduce((number, byte) => number * 256 + byte, 0) / 2 ** 48;
}

/** HTTP over the two interfaces of `wasi:http`. Write no key into a request: the host adds it. */
export function httpOver(handler, types) {
  return {
    /** A GET request. `query` is an object of parameters. Throws a `Failure` if there is no answer. */
    get(url, query = {}) {
      const { scheme, authority, path } = parts(url);
      const pairs = Object.entries(query).map((pair) => pair.map(encodeURIComponent).join("="));
      const request = new types.OutgoingRequest(new types.Fields());
      request.setScheme({ tag: scheme });
      request.setAuthority(authority);
      request.setPathWithQuery(pairs.length ? `${path}?${pairs.join("&")}` : path);
      try {
        const future = handler.handle(request, null);
        future.subscribe().block();
        return new Answer(authority, unwrap(unwrap(future.get())));
      } catch (error) {
        throw error instanceof Failure ? error : refused(authority, error);
      }
    },
  };
}

/** An answer that came, whatever its status. */
export class Answer {
  #response;
  constructor(host, response) {
    this.host = host;
    this.status = response.status();
    this.#response = keep(response);
  }

  /** The value of a header, or null. */
  header(name) {
    const [value] = this.#response.headers().get(name);
    return value ? decode(value) : null;
  }

  /** This answer if its status is one of success; else throws the `Failure` that the status stands for. */
  ok() {
    const { status, host } = this;
    if (status >= 200 && status < 300) return this;
    const message = `${host} answered ${status}`;
    if (status === 401 || status === 403) throw Failure.denied(message);
    if (status === 404 || status === 410) throw Failure.notFound(message);
    if ([408, 425, 429, 500, 502, 503, 504].includes(status)) {
      const seconds = Number(this.header("retry-after") ?? NaN);
      throw Failure.unavailable(message, seconds >= 0 ? Math.round(seconds * 1000) : null);
    }
    throw Failure.failed(message);
  }

  /** The body as text, at most `most` bytes of it. */
  text(most = 65536) {
    const body = keep(this.#response.consume());
    const stream = keep(body.stream());
    const bytes = [];
    for (;;) {
      let chunk;
      try {
        chunk = stream.blockingRead(65536);
      } catch (error) {
        if (payload(error)?.tag === "closed") return decode(bytes);
        throw Failure.failed(`the answer of ${this.host} breaks off`);
      }
      if (bytes.length + chunk.length > most) throw Failure.failed(`the answer of ${this.host} is longer than ${most} bytes`);
      for (const byte of chunk) bytes.push(byte);
    }
  }

  /** The body as JSON. */
  json(most = 65536) {
    const text = this.text(most);
    try {
      return JSON.parse(text);
    } catch {
      throw Failure.failed(`the answer of ${this.host} is not the expected JSON`);
    }
  }
}

/**
 * The engine gives a resource of the host back as soon as nobody has it any more, which the host refuses while another
 * hangs on it, as a stream on its body. An instance serves one call and ends, so all may stay.
 */
const kept = [];
function keep(resource) {
  kept.push(resource);
  return resource;
}

function parts(url) {
  const match = /^(https?):\/\/([^/?#]+)(\/[^?#]*)?$/.exec(url);
  if (!match) throw Failure.invalidArguments(`${url} is no URL to send a query to`);
  return { scheme: match[1] === "http" ? "HTTP" : "HTTPS", authority: match[2], path: match[3] ?? "/" };
}

function refused(host, error) {
  const code = payload(error)?.tag ?? String(error?.message ?? error);
  if (["HTTP-request-denied", "destination-IP-prohibited"].includes(code)) {
    return Failure.denied(`the request to ${host} was denied (${code})`);
  }
  if (/^(DNS|destination|connection)|timeout/.test(code)) {
    return Failure.unavailable(`${host} cannot be reached: ${code}`);
  }
  return Failure.failed(`the request to ${host} failed: ${code}`);
}

/** What a nested `result` holds; throws its error. */
function unwrap(result) {
  if (result?.tag === "err") throw result.val;
  return result?.tag === "ok" ? result.val : result;
}

/** The value of an error that an imported function gave, however the engine wraps it. */
function payload(error) {
  return error?.payload ?? error;
}

/** UTF-8; the engine brings no TextDecoder. */
function decode(bytes) {
  let percent = "";
  for (const byte of bytes) percent += `%${byte.toString(16).padStart(2, "0")}`;
  try {
    return decodeURIComponent(percent);
  } catch {
    return Array.from(bytes, (byte) => (byte < 128 ? String.fromCharCode(byte) : "\ufffd")).join("");
  }
}
