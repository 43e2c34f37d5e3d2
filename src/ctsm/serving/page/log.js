// The conversation on the left: one element a turn, which shows the message, what was felt, and the reply.

import { alignedWords } from "./conversation.js";
import { make, percent, unseen } from "./dom.js";
import { ordered } from "./emotions.js";

/** Share of a word's probability from which it is called copied; as in `ctsm.analysis.explain_files`. */
export const LEAST_COPIED = 0.05;

/** Every message of the user's is checked, earlier ones too. */
export const NOTICE_STAYS = "The notice stays for this conversation; begin a new one to go on.";

/** The elements of one turn. `actions` has `open`, `retry` and `edit`, each called with the turn, and `anew`. */
export class TurnView {
  constructor(turn, number, actions) {
    this.turn = turn;
    this.actions = actions;
    this.felt = make("button", { type: "button", class: "felt", tabindex: "-1", hidden: true });
    this.felt.addEventListener("click", () => actions.open(turn));
    this.answer = make("div", { class: "answer" });
    this.element = make(
      "li",
      { class: "turn", tabindex: "-1", "aria-label": `Message ${number}: ${turn.text}` },
      make("p", { class: "said" }, unseen("You: "), make("span", { class: "text", dir: "auto" }, turn.text)),
      this.felt,
      this.answer,
    );
  }

  /** Mark the turn as the one that the panel is about, or not. */
  select(selected) {
    this.element.classList.toggle("selected", selected);
    if (selected) this.element.setAttribute("aria-current", "true");
    else this.element.removeAttribute("aria-current");
    this.element.tabIndex = this.felt.tabIndex = selected ? 0 : -1;
  }

  /** Show the turn as it is now; `newest` turns can be tried again. */
  update(newest) {
    const { turn } = this;
    this.#updateFelt();
    this.answer.className = `answer ${turn.phase}${turn.isNotice ? " notice" : ""}`;
    this.answer.replaceChildren();
    if (turn.isNotice) {
      const title = make("p", { class: "notice-title" }, "Please read this");
      this.answer.append(title, text(turn.reply || turn.notice || ""));
    } else if (turn.reply) {
      this.answer.append(unseenReply(), this.#reply());
    } else if (turn.phase === "waiting" || turn.phase === "streaming") {
      this.answer.append(make("p", { class: "thinking" }, unseen("The reply is being made.")));
    }
    const remark = remarkOn(turn);
    if (remark) this.answer.append(make("p", { class: "remark" }, remark));
    if (turn.phase === "failed") this.answer.append(this.#failure(newest));
    if (turn.phase === "done" && turn.isNotice) this.#waysOn(newest);
  }

  /** Append a piece of a reply that is being streamed, without making all of it anew. */
  append(piece) {
    const last = this.answer.querySelector(".text");
    if (last) last.append(piece);
    else this.update(true);
  }

  #updateFelt() {
    const { turn } = this;
    const first = ordered(turn.probabilities, "probable").slice(0, 2);
    this.felt.hidden = turn.isNotice || first.length === 0;
    const shown = first.map(([name, share]) => `${name} ${percent(share)}`).join(" · ");
    this.felt.replaceChildren(unseen("Perceived: "), shown);
  }

  #reply() {
    const { turn } = this;
    if (!turn.explainsReply) return text(turn.reply);
    const shown = text("");
    for (const part of alignedWords(turn.reply, turn.explanation.reply.words)) {
      if (!part.word || part.word.copied < LEAST_COPIED) {
        shown.append(part.text);
        continue;
      }
      const { copied } = part.word;
      const attributes = { class: copied >= 0.5 ? "copied" : "copied partly", title: `${percent(copied)} copied` };
      shown.append(make("mark", attributes, part.text));
    }
    return shown;
  }

  /** Say that the notice stays, and how to go on; without it the page would be a dead end. */
  #waysOn(newest) {
    this.answer.append(make("p", { class: "remark" }, NOTICE_STAYS));
    if (!newest) return;
    const anew = make("button", { type: "button" }, "Begin a new conversation");
    anew.addEventListener("click", () => this.actions.anew());
    this.answer.append(anew);
  }

  #failure(newest) {
    const { turn } = this;
    const box = make("div", { class: "failure", role: "group", "aria-label": "This message has no complete reply" });
    if (turn.error) box.append(make("p", {}, make("strong", {}, titleOf(turn.error)), ` ${turn.error.message}`));
    else box.append(make("p", {}, "Stopped before a word was said."));
    if (turn.error?.status === 422) box.append(make("p", {}, "Shorten the message, or begin a new conversation."));
    if (newest) {
      const retry = make("button", { type: "button", class: "retry" }, "Try again");
      retry.addEventListener("click", () => this.actions.retry(turn));
      const edit = make("button", { type: "button" }, "Edit the message");
      edit.addEventListener("click", () => this.actions.edit(turn));
      box.append(retry, edit);
    }
    return box;
  }
}

const text = (content) => make("p", { class: "text", dir: "auto" }, content);
const unseenReply = () => make("p", { class: "unseen" }, "Reply:");

function remarkOn(turn) {
  if (turn.phase !== "done") return null;
  if (!turn.reply) return "The model said nothing.";
  if (turn.finish === "length") return "Cut at the limit of words.";
  if (turn.finish === "stopped") return "Stopped.";
  return null;
}

function titleOf(error) {
  if (error.status === 0) return "No answer.";
  if (error.status === 401) return "An API key is needed.";
  if (error.status === 422) return "Too long.";
  if (error.status === 429) return "Busy.";
  return "No reply.";
}
