// The annotator's page. It shows what the server says is stored, and texts only ever as text.

const token = location.pathname.split("/").pop();
const CHOICES = ["left", "tie", "right"];
const REQUEST_LIMIT_MS = 15_000;
const LONGEST_PAUSE_S = 30;

const byId = (id) => document.getElementById(id);
const views = ["guidelines", "trial", "end"].map(byId);
const undoButtons = [...document.querySelectorAll(".undo")];

let state = null; // what the server said last
let busy = false; // a change is on its way; until it is stored, nothing else can be changed
let begun = false; // the guidelines were read
let changes = 0; // what was asked for before a change is old news after it

// Talking to the server

async function request(path, body) {
  const headers = { Authorization: `Bearer ${token}` };
  if (body) headers["Content-Type"] = "application/json";
  const response = await fetch(path, {
    method: body ? "POST" : "GET",
    headers,
    body: body && JSON.stringify(body),
    signal: AbortSignal.timeout(REQUEST_LIMIT_MS),
  });
  const { status } = response;
  if (status === 200 || status === 409) {
    const answer = await response.json().catch(() => null);
    return { status, answer, final: isState(answer) };
  }
  return { status, answer: null, final: status === 400 || status === 403 };
}

// Whether this comes from the study's server, and not from something between it and the page.
function isState(answer) {
  return Array.isArray(answer?.aspects) && Number.isInteger(answer.done) && answer.trial !== undefined;
}

// Ask until the server answers as only it does. Sending the same again is harmless: the server stores it once.
async function insist(path, body, trouble, advice) {
  for (let attempt = 0; ; attempt += 1) {
    let reason = "the server cannot be reached.";
    try {
      const { status, answer, final } = await request(path, body);
      if (final) {
        clearTrouble();
        return { status, answer };
      }
      reason = `the server gives an unexpected answer (${status}).`;
    } catch {
      // no connection, or none in time
    }
    const seconds = Math.min(LONGEST_PAUSE_S, 2 ** attempt);
    showTrouble(`${trouble}: ${reason} ${advice} Trying again in ${seconds} s.`, true);
    await pause(seconds * (0.8 + 0.4 * Math.random()));
  }
}

// Wait; less long when the connection is back or the person asks for it.
function pause(seconds) {
  return new Promise((resolve) => {
    const done = () => {
      clearTimeout(timer);
      removeEventListener("online", done);
      byId("retry").removeEventListener("click", done);
      resolve();
    };
    const timer = setTimeout(done, seconds * 1000);
    addEventListener("online", done);
    byId("retry").addEventListener("click", done);
  });
}

// Messages

function say(text) {
  byId("status").textContent = text;
}

function showTrouble(text, canRetry) {
  say("");
  byId("trouble-text").textContent = text;
  byId("retry").hidden = !canRetry;
  byId("trouble").hidden = false;
}

function clearTrouble() {
  byId("trouble").hidden = true;
  byId("trouble-text").textContent = "";
}

// What is shown

function element(name, className, text) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function show(id) {
  for (const view of views) view.hidden = view.id !== id;
  byId("show-guidelines").hidden = id === "guidelines" || !state;
  scrollTo(0, 0);
  byId(`${id}-title`).focus({ preventScroll: true });
}

function setText(target, text) {
  const empty = text.trim() === "";
  target.textContent = empty ? "(no text)" : text;
  target.classList.toggle("empty", empty);
}

function renderContext(turns) {
  byId("context").replaceChildren(
    ...turns.map((turn, index) => {
      const speaks = index % 2 === 0;
      const item = element("li", speaks ? "speaker" : "listener");
      const text = element("p", "text");
      text.dir = "auto";
      setText(text, turn);
      item.append(element("span", "role", speaks ? "Speaker" : "Listener"), text);
      return item;
    }),
  );
}

function renderQuestions(aspects, earlier) {
  byId("questions").replaceChildren(
    ...aspects.map(({ name, question }) => {
      const group = element("fieldset");
      group.setAttribute("role", "radiogroup");
      group.dataset.aspect = name;
      const legend = element("legend");
      legend.append(element("b", "", name), element("span", "", question));
      const choices = element("div", "choices");
      for (const choice of CHOICES) {
        const label = element("label");
        const input = element("input");
        Object.assign(input, { type: "radio", name, value: choice, checked: earlier[name] === choice });
        label.append(input, choice[0].toUpperCase() + choice.slice(1));
        choices.append(label);
      }
      group.append(legend, choices);
      return group;
    }),
  );
  mark();
}

function renderEnd() {
  const finished = state.done === state.total;
  byId("end-title").textContent = finished ? "Thank you" : "The study is closed";
  byId("end-text").textContent = finished
    ? `All ${state.total} comparisons are saved. You can close this page.`
    : `No more answers are taken. Your ${state.done} comparisons are saved; thank you.`;
}

function render() {
  byId("progress").hidden = false;
  byId("progress-bar").max = state.total;
  byId("progress-bar").value = state.done;
  byId("progress-text").textContent = `${state.done} of ${state.total} saved`;
  const paragraphs = state.guidelines.split(/\n\s*\n/).map((text) => element("p", "text", text));
  byId("guidelines-text").replaceChildren(...paragraphs);
  for (const button of undoButtons) button.hidden = !state.last;
  if (!state.trial) {
    renderEnd();
    return show("end");
  }
  const { context, left, right, earlier } = state.trial;
  byId("trial-title").textContent = `Comparison ${state.done + 1} of ${state.total}`;
  renderContext(context);
  setText(byId("left"), left);
  setText(byId("right"), right);
  renderQuestions(state.aspects, earlier);
  begun ||= state.done > 0 || Object.keys(earlier).length > 0;
  byId("begin").textContent = begun ? "Back to the comparison" : "Begin";
  return show(begun ? "trial" : "guidelines");
}

function lock(on) {
  busy = on;
  for (const button of [byId("save"), ...undoButtons]) button.setAttribute("aria-disabled", String(on));
  for (const input of byId("questions").querySelectorAll("input")) input.disabled = on;
}

function forbid() {
  for (const view of views) view.hidden = true;
  byId("progress").hidden = true;
  byId("show-guidelines").hidden = true;
  showTrouble("This link is no longer valid. Ask the person who sent it to you for a new one.", false);
}

function misunderstood() {
  showTrouble("The server did not understand this page. Load the page again.", false);
}

// Changes

async function change(path, body, unsaved, advice, saved) {
  changes += 1;
  lock(true);
  const { status, answer } = await insist(path, body, unsaved, advice);
  lock(false);
  if (status === 403) return forbid();
  if (!answer) return misunderstood();
  state = answer;
  render();
  if (status === 200) return say(saved());
  return showTrouble(
    answer.problem === "closed"
      ? "Not saved: the study has been closed."
      : "Not saved: this was answered or changed elsewhere, perhaps in another tab. This is what is stored now.",
    false,
  );
}

const groups = () => [...byId("questions").children];
const chosen = (group) => group.querySelector("input:checked");

function save() {
  if (busy || !state?.trial) return;
  const open = groups().find((group) => !chosen(group));
  if (open) {
    say("");
    showTrouble(`Please answer for ${open.dataset.aspect} too.`, false);
    open.querySelector("input").focus();
    return;
  }
  const answers = Object.fromEntries(groups().map((group) => [group.dataset.aspect, chosen(group).value]));
  const { id, revision } = state.trial;
  change(
    "/api/answer",
    { trial: id, revision, answers },
    "Not saved yet",
    "Your answers are kept on this page; please leave it open.",
    () => "Saved.",
  );
}

function undo() {
  if (busy || !state?.last) return;
  const { id, revision } = state.last;
  change(
    "/api/withdraw",
    { trial: id, revision },
    "Not taken back yet",
    "Please leave this page open.",
    () => "Taken back. Your earlier answers are selected: change them, then save again.",
  );
}

async function refresh() {
  const asked = changes;
  const { status, answer } = await insist("/api/state", null, "The study cannot be read", "");
  if (status === 403) return forbid();
  if (!answer) return misunderstood();
  if (asked !== changes) return undefined;
  const before = state;
  const same =
    before &&
    before.closed === answer.closed &&
    before.done === answer.done &&
    before.trial?.revision === answer.trial?.revision;
  if (same) return undefined; // do not disturb what is being answered
  state = answer;
  render();
  if (before) say("This study went on elsewhere, perhaps in another tab. This is what is stored now.");
  return undefined;
}

// Keys and clicks

// Mark the question that the keys answer: the one that has the focus, else the first open one, else the first; none
// once everything is answered and only saving is left, so that one key too many changes nothing.
function mark() {
  const all = groups();
  const focused = document.activeElement;
  const first = all.find((group) => !chosen(group)) ?? (focused === byId("save") ? undefined : all[0]);
  const current = all.find((group) => group.contains(focused)) ?? first;
  for (const group of all) group.classList.toggle("marked", group === current);
  return current;
}

function choose(choice) {
  const group = mark();
  if (!group || busy) return;
  const changed = chosen(group);
  group.querySelector(`input[value="${choice}"]`).checked = true;
  clearTrouble();
  const next = groups().find((other) => !chosen(other)) ?? (changed && group.nextElementSibling);
  (next ? (chosen(next) ?? next.querySelector("input")) : byId("save")).focus();
  mark();
}

function onKey(event) {
  if (event.ctrlKey || event.altKey || event.metaKey || event.repeat || !state) return;
  const inTrial = !byId("trial").hidden;
  const key = event.key.toLowerCase();
  if (key === "enter" && inTrial && !(event.target instanceof HTMLButtonElement)) {
    event.preventDefault();
    save();
    return;
  }
  if (!byId("use-keys").checked) return;
  if (inTrial && ["1", "2", "3"].includes(key)) choose(CHOICES[Number(key) - 1]);
  else if (key === "u" && byId("guidelines").hidden) undo();
  else if (key === "g" && !busy) (byId("guidelines").hidden ? show("guidelines") : resume());
}

function resume() {
  begun = true;
  byId("begin").textContent = "Back to the comparison";
  show(state.trial ? "trial" : "end");
}

byId("begin").addEventListener("click", resume);
byId("show-guidelines").addEventListener("click", () => show("guidelines"));
for (const button of undoButtons) button.addEventListener("click", undo);
byId("form").addEventListener("submit", (event) => {
  event.preventDefault();
  save();
});
byId("questions").addEventListener("focusin", mark);
byId("questions").addEventListener("change", () => {
  clearTrouble();
  mark();
});
document.addEventListener("keydown", onKey);
document.addEventListener("visibilitychange", () => {
  if (document.visibilityState === "visible" && state && !busy) refresh();
});
addEventListener("beforeunload", (event) => {
  if (busy) event.preventDefault();
});

refresh();
