// The service's API: requests, streams, errors as sentences, and the key.

const KEY = "ctsm-key";
let key = stored();

function stored() {
  try {
    return sessionStorage.getItem(KEY) ?? "";
  } catch {
    return "";
  }
}

/** Use an API key from now on; `keep` lets it live in this tab's session storage, else only in memory. */
export function useKey(value, keep) {
  key = value;
  try {
    if (keep) sessionStorage.setItem(KEY, value);
    else sessionStorage.removeItem(KEY);
  } catch {
    // Storage is switched off: the key stays in memory.
  }
}

/** What went wrong, as a sentence for people; `status` is 0 where there was no answer. */
export class ServiceError extends Error {
  constructor(message, status = 0, code = null) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

const UNREACHABLE = "The service cannot be reached. Check the connection, then try again.";
const BROKEN_OFF = "The connection ended before the reply did. Try again.";

/** Send a request and return its answer if it went well; `body` is sent as JSON. */
async function send(path, body, signal) {
  const headers = { "Content-Type": "application/json" };
  if (key) headers.Authorization = `Bearer ${key}`;
  const options = body ? { method: "POST", body: JSON.stringify(body) } : {};
  let answer;
  try {
    answer = await fetch(new URL(path, document.baseURI), { ...options, headers, signal, cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServiceError(UNREACHABLE);
  }
  if (answer.ok) return answer;
  const told = await answer.json().catch(() => null);
  throw failure(told?.error, answer.status);
}

function failure(told, status) {
  const message = told?.message ?? `The service answered with the status ${status}. Try again.`;
  return new ServiceError(message, status, told?.code ?? null);
}

/** Return an answer's JSON. */
async function ask(path, body, signal) {
  const answer = await send(path, body, signal);
  try {
    return await answer.json();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServiceError(UNREACHABLE);
  }
}

/** Return the id of the model that is served. */
export const modelName = async (signal) => (await ask("v1/models", null, signal)).data[0].id;

/** Return what the reply to these messages rests on. */
export const explain = (model, messages) => ask("v1/explain", { model, messages });

/** Ask for a reply and yield its chunks as they come. */
export async function* replyTo(body, signal) {
  const answer = await send("v1/chat/completions", { ...body, stream: true }, signal);
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    let part;
    try {
      part = await reader.read();
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new ServiceError(BROKEN_OFF);
    }
    if (part.done) throw new ServiceError(BROKEN_OFF);
    const events = (rest + part.value).split("\n\n");
    rest = events.pop();
    for (const event of events) {
      if (!event.startsWith("data: ")) continue;
      if (event === "data: [DONE]") return;
      const chunk = JSON.parse(event.slice("data: ".length));
      if (chunk.error) throw failure(chunk.error, 503);
      yield chunk;
    }
  }
}
