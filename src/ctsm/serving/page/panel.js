// The panel on the right: what the model perceives in one turn, and what its reply rests on.

import { byId, make, percent } from "./dom.js";
import { familyOf, ordered } from "./emotions.js";
import { LEAST_COPIED } from "./log.js";
import { WordList } from "./words.js";

const RELATIONS = {
  xIntent: "You wanted",
  xNeed: "Before, you needed",
  xWant: "Now you want",
  xEffect: "As an effect, you",
  xReact: "You feel",
};

/** Emotions that are shown before one asks for all. */
const FIRST = 8;

/** Shows one turn at a time; `again` is called with the turn to ask for its explanation once more. */
export class Panel {
  constructor(again) {
    this.turn = null;
    this.showsAll = false;
    this.words = new WordList();
    for (const id of ["order", "colouring", "earlier"]) byId(id).addEventListener("change", () => this.update());
    byId("all-emotions").addEventListener("click", () => {
      this.showsAll = !this.showsAll;
      this.update();
    });
    byId("explain-again").addEventListener("click", () => again(this.turn));
  }

  /** Show a turn of a conversation, or what the panel is for where there is none. */
  show(turn, conversation) {
    this.turn = turn;
    this.conversation = conversation;
    this.update();
  }

  /** Show the turn as it is now. */
  update() {
    const { turn } = this;
    byId("outlook").hidden = turn !== null;
    const told = turn && !turn.isNotice;
    const number = told && this.conversation.turns.indexOf(turn) + 1;
    byId("panel-turn").textContent = told ? `in message ${number}: “${shortened(turn.text)}”` : "";
    const explanation = told ? turn.explanation : null;
    this.#remark();
    this.#distribution(told ? turn.probabilities : {});
    byId("waiting").textContent = told && turn.explaining === "asked" ? "Asking what the reply rests on …" : "";
    const failed = told && turn.explaining === "failed";
    byId("explain-error").hidden = byId("explain-again").hidden = !failed;
    const reason = failed ? turn.explainError.message : "";
    byId("explain-error").textContent = `What the reply rests on is not known. ${reason}`;
    for (const id of ["words", "copies", "inferences"]) byId(id).hidden = !explanation;
    if (!explanation) return;
    this.words.show(explanation, checked("colouring"), byId("earlier").checked);
    this.#copies(explanation);
    this.#inferences(explanation.inferences);
  }

  #remark() {
    const remark = byId("remark");
    remark.textContent = this.turn ? remarkOn(this.turn) : "";
    remark.hidden = !remark.textContent;
  }

  #distribution(probabilities) {
    const order = checked("order");
    const entries = ordered(probabilities, order);
    const shown = order === "probable" && !this.showsAll ? entries.slice(0, FIRST) : entries;
    const button = byId("all-emotions");
    button.hidden = order === "kind";
    button.textContent = this.showsAll ? "Show fewer" : `Show all ${entries.length}`;
    button.setAttribute("aria-expanded", String(this.showsAll));
    byId("emotions").hidden = entries.length === 0;
    byId("distribution").classList.toggle("all", shown.length > FIRST);
    const highest = Math.max(...Object.values(probabilities), 0);
    const best = entries.find(([, share]) => share === highest);
    if (best) {
      const rest = ` is the most probable, with ${percent(best[1])}`;
      byId("headline").replaceChildren(make("b", {}, best[0]), rest);
    }
    byId("distribution").replaceChildren(...shown.map(([name, share]) => row(name, share, highest)));
  }

  #copies(explanation) {
    const { turn } = this;
    const rows = explanation.reply.words.filter((word) => word.copied >= LEAST_COPIED);
    const drawn = byId("drawn");
    drawn.hidden = turn.explainsReply || !turn.reply;
    const probable = explanation.reply.content;
    drawn.textContent = `Your reply was drawn. What is explained is the most probable one: “${probable}”`;
    byId("no-copies").hidden = rows.length > 0;
    byId("no-copies").textContent = `No word (each less than ${100 * LEAST_COPIED} %).`;
    byId("copies-table").hidden = rows.length === 0;
    const places = placesOf(explanation.tokens, this.conversation.stretchesFor(turn));
    byId("copies-rows").replaceChildren(
      ...rows.map((word) => {
        const source = sourceOf(word, explanation.tokens);
        return make(
          "tr",
          {},
          make("th", { scope: "row" }, word.token),
          make("td", {}, percent(word.copied)),
          make("td", {}, ...quoted(explanation.tokens, source), ` ${places[source]}`),
        );
      }),
    );
  }

  #inferences(inferences) {
    const entries = Object.entries(inferences).filter(([, phrases]) => phrases.length > 0);
    byId("inferences").hidden = entries.length === 0;
    byId("inference-list").replaceChildren(
      ...entries.flatMap(([relation, phrases]) => [
        make("dt", { title: relation }, RELATIONS[relation] ?? relation),
        make("dd", {}, make("ul", {}, ...phrases.map((phrase) => make("li", {}, phrase)))),
      ]),
    );
  }
}

function remarkOn(turn) {
  if (turn.isNotice) return "This message was answered with a notice, so no emotions are shown for it.";
  if (turn.phase === "waiting") return "The message is being read …";
  if (turn.phase === "failed" && !turn.emotion) return "Nothing is known of this message, as it was not answered.";
  if (turn.explaining === "impossible") return "This model does not perceive emotions word by word.";
  if (turn.truncated) return "The beginning of this conversation was left out: it is longer than the model reads.";
  return "";
}

function checked(name) {
  return document.querySelector(`input[name=${name}]:checked`).value;
}

function shortened(message) {
  return message.length > 60 ? `${message.slice(0, 57).replace(/\s+\S*$/, "")} …` : message;
}

/** A row of the distribution: name, bar and number. */
function row(name, share, highest) {
  const bar = make("span", { class: `fill ${familyOf(name)}` });
  bar.style.setProperty("--share", highest > 0 ? share / highest : 0);
  return make(
    "tr",
    { role: "row", class: share === highest ? "highest" : null },
    make("th", { role: "rowheader", scope: "row" }, name),
    make(
      "td",
      { role: "cell" },
      make("span", { class: "track", "aria-hidden": "true" }, bar),
      make("span", { class: "number" }, percent(share)),
    ),
  );
}

/** Return the place among the tokens that a word was most likely copied from. */
function sourceOf(word, tokens) {
  const same = tokens.map((_, place) => place).filter((place) => tokens[place].token === word.token);
  const places = same.length > 0 ? same : tokens.map((_, place) => place);
  return places.reduce((best, place) => (word.weights[place] > word.weights[best] ? place : best));
}

/** Return for each token where it was said: its last stretch of one role is the last of `stretches`, and so on. */
function placesOf(tokens, stretches) {
  let left = stretches.length - 1;
  const places = [];
  for (let place = tokens.length - 1; place >= 0; place -= 1) {
    if (place < tokens.length - 1 && tokens[place].role !== tokens[place + 1].role) left -= 1;
    const { role, number } = stretches[Math.max(0, left)];
    places[place] = role === "user" ? `in your message ${number}` : `in the reply ${number}`;
  }
  return places;
}

/** Quote a token with its neighbours. */
function quoted(tokens, place) {
  const words = (from, to) => tokens.slice(Math.max(0, from), to).map((token) => token.token);
  const before = words(place - 2, place).map((word) => `${word} `);
  const after = words(place + 1, place + 3).map((word) => ` ${word}`);
  return ["“", ...before, make("b", {}, tokens[place].token), ...after, "”"];
}
