// The page: sending messages, going from turn to turn, settings, the key, the theme, the export.

import * as api from "./api.js";
import { Conversation, Turn } from "./conversation.js";
import { byId, make, percent } from "./dom.js";
import { NOTICE_STAYS, TurnView } from "./log.js";
import { Panel } from "./panel.js";

const EXAMPLES = [
  "Our neighbours surprised me with a cake after my long week at work.",
  "My sister moved abroad last week, and her empty room makes me sad.",
  "Somebody followed me home last night. I was so scared that I could not sleep.",
];
/** Milliseconds that the pointer rests on a turn before the panel follows it. */
const REST = 120;
/** Pixels from the end of the log within which it follows a reply that grows. */
const NEAR_END = 80;

const message = byId("message");
const narrow = matchMedia("(max-width: 60rem)");
let model = null;
let conversation = new Conversation();
let views = new Map();
let selected = null;
let stopping = null; // aborts the reply that is being made
let afterKey = () => {}; // what waits for an API key
let explainable = true;

const panel = new Panel((turn) => explain(turn));
const actions = { open: openPanel, retry: (turn) => answer(turn), edit, anew: askForNew };

// ---- Sending

function send(text) {
  if (stopping || !text.trim()) return;
  const turn = new Turn(text.trim(), settings());
  conversation.turns.push(turn);
  const view = new TurnView(turn, conversation.turns.length, actions);
  views.set(turn, view);
  byId("turns").append(view.element);
  for (const other of conversation.turns.slice(-2, -1)) views.get(other).update(false);
  message.value = "";
  fitMessage();
  select(turn);
  answer(turn);
}

/** Ask for the reply to a turn, and show it as it comes. */
async function answer(turn) {
  if (stopping) return;
  stopping = new AbortController();
  turn.begin();
  // For the way back from a button that goes away.
  if (byId("turns").contains(document.activeElement)) message.focus();
  refresh(turn);
  scrollToEnd();
  try {
    await nameModel(stopping.signal);
    const body = { model, messages: conversation.messagesFor(turn), ...turn.settings };
    for await (const chunk of api.replyTo(body, stopping.signal)) show(turn, chunk);
    turn.phase = "done";
  } catch (error) {
    ended(turn, error);
  }
  stopping = null;
  followed(() => refresh(turn));
  announce(turn);
  if (turn.phase === "done") explain(turn);
}

function show(turn, chunk) {
  const perceived = turn.take(chunk);
  const piece = chunk.choices[0]?.delta.content ?? "";
  followed(() => {
    if (perceived || turn.isNotice) refresh(turn);
    else if (piece) views.get(turn)?.append(piece);
  });
}

/** Note how a reply ended that did not come to its end. */
function ended(turn, error) {
  if (error.name === "AbortError") {
    turn.phase = turn.reply ? "done" : "failed";
    turn.finish = "stopped";
    return;
  }
  turn.phase = "failed";
  turn.error = error;
  if (error.status === 401) askForKey(() => answer(turn));
}

function edit(turn) {
  conversation.turns = conversation.turns.filter((other) => other !== turn);
  views.get(turn).element.remove();
  views.delete(turn);
  message.value = [turn.text, message.value].filter(Boolean).join("\n");
  fitMessage();
  message.focus();
  const newest = conversation.turns.at(-1) ?? null;
  select(newest);
  if (newest) refresh(newest);
}

async function nameModel(signal) {
  model ??= await api.modelName(signal);
  byId("model").textContent = model;
}

/** Ask, once for each turn, what the reply to it rests on. */
async function explain(turn) {
  if (turn.isNotice || !["not yet", "failed"].includes(turn.explaining)) return;
  turn.explaining = explainable ? "asked" : "impossible";
  if (panel.turn === turn) panel.update();
  if (!explainable) return;
  try {
    turn.explanation = await api.explain(model, conversation.messagesFor(turn));
    turn.explaining = "done";
  } catch (error) {
    explainable = error.code !== "cannot_explain";
    turn.explaining = explainable ? "failed" : "impossible";
    turn.explainError = error;
    if (error.status === 401) askForKey(() => explain(turn));
  }
  followed(() => refresh(turn));
}

function announce(turn) {
  const first = turn.emotion ? ` Perceived: ${turn.emotion}, ${percent(turn.probabilities[turn.emotion])}.` : "";
  if (turn.isNotice) byId("announcer").textContent = `Please read this: ${turn.reply} ${NOTICE_STAYS}`;
  else if (turn.phase === "done") byId("announcer").textContent = `Reply: ${turn.reply}${first}`;
  else byId("announcer").textContent = turn.error?.message ?? "Stopped before a word was said.";
}

// ---- Showing

/** Show a turn as it is now, and what depends on it. */
function refresh(turn) {
  views.get(turn)?.update(turn === conversation.turns.at(-1));
  if (panel.turn === turn) panel.update();
  updateTools();
}

function updateTools() {
  const empty = conversation.turns.length === 0;
  byId("welcome").hidden = !empty;
  byId("new").disabled = byId("export").disabled = empty || stopping !== null;
  byId("send").hidden = stopping !== null;
  byId("stop").hidden = stopping === null;
}

function select(turn) {
  views.get(selected)?.select(false);
  selected = turn;
  views.get(turn)?.select(true);
  panel.show(turn, conversation);
  updateTools();
}

/** Do something that makes the log longer, and stay at its end if that was in view. */
function followed(change) {
  const { scrollTop, scrollHeight, clientHeight } = byId("scroll");
  const near = scrollHeight - scrollTop - clientHeight < NEAR_END;
  change();
  if (near) scrollToEnd();
}

function scrollToEnd() {
  byId("scroll").scrollTop = byId("scroll").scrollHeight;
}

function fitMessage() {
  message.style.height = "auto";
  message.style.height = `${message.scrollHeight + 2}px`;
}

// ---- From turn to turn

function turnOf(target) {
  const element = target.closest?.(".turn");
  return conversation.turns.find((turn) => views.get(turn).element === element) ?? null;
}

function listenToTurns() {
  const turns = byId("turns");
  let resting;
  let pointed = "";
  turns.addEventListener("pointermove", (event) => {
    // A page that scrolls under a pointer that rests is no movement.
    const place = `${event.clientX} ${event.clientY}`;
    if (place === pointed) return;
    pointed = place;
    clearTimeout(resting);
    const turn = turnOf(event.target);
    if (turn && turn !== selected && event.pointerType === "mouse") resting = setTimeout(() => select(turn), REST);
  });
  turns.addEventListener("pointerleave", () => clearTimeout(resting));
  for (const kind of ["focusin", "click"]) {
    turns.addEventListener(kind, (event) => {
      const turn = turnOf(event.target);
      if (turn && turn !== selected) select(turn);
    });
  }
  turns.addEventListener("keydown", (event) => {
    const here = conversation.turns.indexOf(turnOf(event.target));
    const last = conversation.turns.length - 1;
    const next = { ArrowUp: here - 1, ArrowDown: here + 1, Home: 0, End: last }[event.key];
    if (next !== undefined) {
      event.preventDefault();
      if (next > last) message.focus();
      else goTo(conversation.turns[Math.max(0, next)]);
    } else if (event.key === "Enter" && event.target.classList.contains("turn")) {
      openPanel(turnOf(event.target));
    }
  });
}

function goTo(turn) {
  select(turn);
  views.get(turn).element.focus();
}

// ---- The panel as a sheet, where there is no room beside the chat

function openPanel(turn) {
  select(turn);
  if (narrow.matches) showSheet(true);
  byId("panel").scrollTop = 0;
  byId("panel-title").focus();
}

function showSheet(open) {
  const sheet = byId("panel");
  sheet.classList.toggle("open", open);
  if (open) sheet.setAttribute("role", "dialog");
  else sheet.removeAttribute("role");
  byId("backdrop").hidden = !open;
  byId("chat").inert = byId("bar").inert = open;
}

function closeSheet() {
  if (!byId("panel").classList.contains("open")) return false;
  showSheet(false);
  if (selected) views.get(selected).element.focus();
  return true;
}

// ---- Settings, key, theme, export, a new conversation

function settings() {
  const words = Number.parseInt(byId("max-words").value, 10);
  return {
    ...(byId("draw").checked && {
      temperature: Number(byId("temperature").value),
      top_p: Number(byId("top-p").value),
    }),
    ...(words > 0 && { max_tokens: words }),
  };
}

function listenToSettings() {
  const shown = () => {
    byId("draw-options").disabled = !byId("draw").checked;
    for (const id of ["temperature", "top-p"]) byId(`${id}-shown`).textContent = Number(byId(id).value).toFixed(2);
  };
  byId("settings").addEventListener("input", shown);
  shown();
  byId("settings-open").addEventListener("click", () => byId("settings").showModal());
  byId("settings-close").addEventListener("click", () => byId("settings").close());
}

/** Show the field for the API key; `then` is what to do with one. */
function askForKey(then, wrong = false) {
  byId("key-wrong").textContent = wrong ? "That key is not valid here." : "";
  afterKey = then;
  byId("key-form").hidden = false;
  byId("key").focus();
}

function listenToKey() {
  byId("key-form").addEventListener("submit", (event) => {
    event.preventDefault();
    const value = byId("key").value.trim();
    if (!/^[\x20-\x7e]+$/.test(value)) {
      byId("key-wrong").textContent = "A key has only letters, digits and signs of ASCII.";
      return;
    }
    api.useKey(value, byId("key-keep").checked);
    byId("key").value = "";
    byId("key-form").hidden = true;
    message.focus();
    tryKey(afterKey);
  });
}

async function tryKey(then) {
  try {
    model = null;
    await nameModel();
  } catch (error) {
    if (error.status === 401) {
      askForKey(then, true);
      return;
    }
  }
  await then();
}

function listenToTheme() {
  const root = document.documentElement;
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : dark.matches);
  const shown = () => byId("theme").setAttribute("aria-pressed", String(isDark()));
  byId("theme").addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    try {
      localStorage.setItem("ctsm-theme", root.dataset.theme);
    } catch {
      // Storage is switched off: the choice lasts as long as the page.
    }
    shown();
  });
  dark.addEventListener("change", shown);
  shown();
}

function exportConversation() {
  const content = JSON.stringify(conversation.toJson(model), null, 1);
  const address = URL.createObjectURL(new Blob([content], { type: "application/json" }));
  const name = `conversation-${conversation.started.toISOString().slice(0, 19).replaceAll(":", "")}.json`;
  make("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 60_000);
}

function askForNew() {
  byId("anew").showModal();
}

function beginAnew() {
  byId("anew").close();
  conversation = new Conversation();
  views = new Map();
  byId("turns").replaceChildren();
  select(null);
  message.focus();
}

// ---- Wiring

function listenToComposer() {
  byId("composer").addEventListener("submit", (event) => {
    event.preventDefault();
    send(message.value);
  });
  message.addEventListener("input", fitMessage);
  message.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      send(message.value);
    } else if (event.key === "ArrowUp" && !message.value && selected) {
      event.preventDefault();
      goTo(conversation.turns.at(-1));
    }
  });
  byId("stop").addEventListener("click", () => {
    stopping?.abort();
    message.focus();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && !document.querySelector("dialog[open]") && !closeSheet()) stopping?.abort();
  });
}

function start() {
  byId("examples").append(
    ...EXAMPLES.map((sentence) => {
      const button = make("button", { type: "button" }, sentence);
      button.addEventListener("click", () => send(sentence));
      return make("li", {}, button);
    }),
  );
  listenToComposer();
  listenToTurns();
  listenToSettings();
  listenToKey();
  listenToTheme();
  byId("export").addEventListener("click", exportConversation);
  byId("new").addEventListener("click", askForNew);
  byId("anew-no").addEventListener("click", () => byId("anew").close());
  byId("anew-yes").addEventListener("click", beginAnew);
  byId("panel-close").addEventListener("click", closeSheet);
  byId("backdrop").addEventListener("click", closeSheet);
  narrow.addEventListener("change", () => showSheet(false));
  nameModel().catch((error) => {
    // Anything else shows when a message is sent.
    if (error.status === 401) askForKey(() => {});
  });
}

start();
