// What was said and perceived, turn by turn: a message of the user's with the reply to it.

/** One message of the user's and what became of it. */
export class Turn {
  /**
   * `phase` is "waiting", "streaming", "done" or "failed"; `explaining` is "not yet", "asked", "done", "failed" or
   * "impossible".
   */
  constructor(text, settings) {
    this.text = text;
    this.settings = settings;
    this.time = new Date();
    this.begin();
  }

  /** Forget the reply, to ask for it anew. */
  begin() {
    Object.assign(this, { phase: "waiting", reply: "", finish: null, error: null });
    Object.assign(this, { emotion: null, probabilities: {}, truncated: false, notice: null });
    Object.assign(this, { explaining: "not yet", explanation: null, explainError: null });
  }

  /** Take a chunk of the reply; return whether it told what the model perceived. */
  take(chunk) {
    this.phase = "streaming";
    const [choice] = chunk.choices;
    this.reply += choice?.delta.content ?? "";
    this.finish = choice?.finish_reason ?? this.finish;
    if (!chunk.ctsm) return false;
    const { emotion, probabilities, truncated, notice } = chunk.ctsm;
    Object.assign(this, { emotion, probabilities, truncated, notice });
    return true;
  }

  /** Whether the answer is a notice where to find help, and no reply of the model's. */
  get isNotice() {
    return this.notice !== null || this.finish === "content_filter";
  }

  /** Whether the explanation, which is of the most probable reply, explains the reply that is shown. */
  get explainsReply() {
    return Boolean(this.explanation && this.reply && this.explanation.reply.content.startsWith(this.reply.trimEnd()));
  }
}

/** All turns, in order. */
export class Conversation {
  constructor() {
    this.turns = [];
    this.started = new Date();
  }

  /** Return the messages up to a turn's, as the API takes them; it leaves out replies without words, and so do we. */
  messagesFor(turn) {
    const messages = [];
    for (const one of this.turns) {
      messages.push({ role: "user", content: one.text });
      if (one === turn) break;
      if (one.reply.trim()) messages.push({ role: "assistant", content: one.reply });
    }
    return messages;
  }

  /** Return whose words the stretches of tokens up to a turn are: [{role, number}]; neighbours of a role are one. */
  stretchesFor(turn) {
    const stretches = [];
    for (const [place, one] of this.turns.entries()) {
      if (stretches.at(-1)?.role === "user") stretches.pop();
      stretches.push({ role: "user", number: place + 1 });
      if (one === turn) break;
      if (one.reply.trim()) stretches.push({ role: "assistant", number: place + 1 });
    }
    return stretches;
  }

  /** Return everything as JSON values. */
  toJson(model) {
    return {
      format: 1,
      model,
      started: this.started.toISOString(),
      exported: new Date().toISOString(),
      messages: this.turns.flatMap((turn) => [
        { role: "user", content: turn.text },
        ...(turn.reply ? [{ role: "assistant", content: turn.reply }] : []),
      ]),
      turns: this.turns.map((turn) => ({
        time: turn.time.toISOString(),
        user: turn.text,
        reply: turn.reply,
        finish_reason: turn.finish,
        error: turn.error?.message ?? null,
        notice: turn.notice,
        emotion: turn.emotion,
        probabilities: turn.probabilities,
        truncated: turn.truncated,
        settings: turn.settings,
        explanation: turn.explanation,
      })),
    };
  }
}

/** Cut a reply into [{text, word}]: `word` is the explanation's, null for spaces and what is not explained. */
export function alignedWords(text, words) {
  const parts = [];
  let place = 0;
  for (const word of words) {
    const written = ["``", "''"].includes(word.token) ? '"' : word.token;
    const start = place + text.slice(place).search(/\S|$/);
    const found = text.slice(start, start + written.length);
    if (!found || found.toLowerCase() !== written.toLowerCase()) break;
    if (start > place) parts.push({ text: text.slice(place, start), word: null });
    parts.push({ text: found, word });
    place = start + written.length;
  }
  if (place < text.length) parts.push({ text: text.slice(place), word: null });
  return parts;
}
