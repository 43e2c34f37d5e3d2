// The admin's page: progress, agreement, and closing. It is told nothing about who is winning.

const token = location.pathname.split("/").pop();
const EVERY_MS = 10_000;
const byId = (id) => document.getElementById(id);

async function ask(path, method) {
  const headers = { Authorization: `Bearer ${token}` };
  try {
    const response = await fetch(path, { method, headers, signal: AbortSignal.timeout(EVERY_MS) });
    if (response.status === 403) return trouble("This link is no longer valid.");
    if (response.ok) return render(await response.json());
  } catch {
    // no connection, or none in time
  }
  return trouble("The server cannot be reached; what is shown may be old.");
}

function trouble(text) {
  byId("trouble-text").textContent = text;
  byId("trouble").hidden = false;
}

function row(head, ...cells) {
  const made = document.createElement("tr");
  const first = document.createElement("th");
  first.scope = "row";
  first.textContent = head;
  made.append(first);
  for (const content of cells) {
    const cell = document.createElement("td");
    cell.append(content);
    made.append(cell);
  }
  return made;
}

function bar(annotator, done, total) {
  const made = document.createElement("progress");
  Object.assign(made, { value: done, max: total });
  made.setAttribute("aria-label", `progress of annotator ${annotator}`);
  return made;
}

function render(study) {
  byId("trouble").hidden = true;
  byId("content").hidden = false;
  byId("annotators").replaceChildren(
    ...study.annotators.map(({ annotator, done, total, last }) =>
      row(annotator, `${done} of ${total}`, bar(annotator, done, total), last ? new Date(last).toLocaleString() : "none yet"),
    ),
  );
  byId("agreement").replaceChildren(
    ...study.agreement.map(({ aspect, complete, raw, kappa, reading, undefined: why }) =>
      row(
        aspect,
        kappa === null ? `not known: ${why}` : `${kappa.toFixed(2)} (${reading})`,
        String(complete),
        raw === null ? "not known yet" : `${(100 * raw).toFixed(1)} %`,
      ),
    ),
  );
  byId("close").hidden = study.closed;
  byId("status").textContent = study.closed ? "The study is closed." : "";
}

byId("close").addEventListener("click", () => byId("confirm").showModal());
byId("cancel").addEventListener("click", () => byId("confirm").close());
byId("confirmed").addEventListener("click", () => {
  byId("confirm").close();
  ask("/api/admin/close", "POST");
});
setInterval(() => document.visibilityState === "visible" && ask("/api/admin", "GET"), EVERY_MS);
ask("/api/admin", "GET");
