// The words of a message: coloured, with numbers under and beside them, and all of them as a table.

import { byId, make, percent, unseen } from "./dom.js";
import { FAMILIES, familyOf, largest, valenceStep } from "./emotions.js";

const VALENCES = ["very unpleasant", "unpleasant", "neither", "pleasant", "very pleasant"];
const WEIGHTS = "The line below: its weight (attention), beside that of the heaviest word here.";
const NO_WEIGHTS = "This model weighs the words without attention.";
const OUTSIDE = "not in the lexicon";

/** Shows words by trait or by state. One of them can be reached with Tab; arrow keys go on from there. */
export class WordList {
  constructor() {
    this.list = byId("word-list");
    this.list.addEventListener("keydown", (event) => this.#move(event));
    for (const kind of ["pointerover", "focusin", "click"]) {
      this.list.addEventListener(kind, (event) => this.#tell(event.target.closest("button")));
    }
  }

  /** Show the words of the last message, or of all that the model read if `earlier`. */
  show(explanation, colouring, earlier) {
    const { tokens, emotions } = explanation;
    const start = tokens.map((token) => token.role).lastIndexOf("assistant") + 1;
    const shown = earlier ? tokens : tokens.slice(start);
    byId("earlier-label").hidden = start === 0;
    this.details = new Map();
    const most = Math.max(...shown.map((token) => token.attention ?? 0));
    const buttons = shown.map((token) => this.#word(token, emotions, colouring, most));
    const children = buttons.flatMap((button, place) => {
      const { role } = shown[place];
      const changes = earlier && start > 0 && role !== shown[place - 1]?.role;
      return changes ? [make("span", { class: "speaker" }, role === "user" ? "you" : "reply"), button] : [button];
    });
    this.list.replaceChildren(...children);
    this.#tell(buttons[shown.findIndex((token) => (token.attention ?? 0) === most)]);
    this.#legend(colouring, most > 0);
    this.#table(shown, emotions);
  }

  #word(token, emotions, colouring, most) {
    const [best] = largest(token.state, 1);
    const valence = token.trait?.valence;
    const label = colouring === "state" ? emotions[best] : (valence?.toFixed(2) ?? "–");
    const tint = colouring === "state" ? familyOf(emotions[best]) : `valence-${token.trait ? valenceStep(valence) : 0}`;
    const weight = make("span", { class: "weight", "aria-hidden": "true" });
    weight.style.setProperty("--share", most > 0 ? (token.attention ?? 0) / most : 0);
    const button = make(
      "button",
      { type: "button", tabindex: "-1", class: `word ${token.trait ? tint : "outside"}` },
      make("span", { class: "token" }, token.token),
      make("span", { class: "label", "aria-hidden": "true" }, label),
      weight,
    );
    const detail = describe(token, emotions);
    button.append(unseen(`: ${detail.join("; ")}`));
    this.details.set(button, [token.token, detail]);
    return button;
  }

  #tell(button) {
    const told = this.details?.get(button);
    if (!told) return;
    for (const other of this.list.querySelectorAll("button")) {
      other.tabIndex = other === button ? 0 : -1;
      other.classList.toggle("told", other === button);
    }
    byId("detail").replaceChildren(make("b", {}, told[0]), ...told[1].map((line) => make("span", {}, line)));
  }

  #move(event) {
    const buttons = [...this.list.querySelectorAll("button")];
    const here = buttons.indexOf(document.activeElement);
    const next = { ArrowRight: here + 1, ArrowLeft: here - 1, Home: 0, End: buttons.length - 1 }[event.key];
    if (next === undefined) return;
    event.preventDefault();
    buttons[next]?.focus();
  }

  #legend(colouring, hasAttention) {
    const keys =
      colouring === "state"
        ? Object.entries(FAMILIES).map(([name, members]) => [name, `${members.slice(0, 2).join(", ")} …`])
        : VALENCES.map((name, place) => [`valence-${place + 1}`, name]);
    const texts = {
      trait: "Under each word: the valence that a lexicon gives it, 0 unpleasant to 1 pleasant, whatever the context.",
      state: "Under each word: the emotion that is most probable by this word alone, in this context.",
    };
    byId("legend").replaceChildren(
      make(
        "ul",
        {},
        ...[...keys, ["outside", OUTSIDE]].map(([tint, name]) =>
          make("li", {}, make("span", { class: `swatch ${tint}` }), name),
        ),
      ),
      make("p", {}, `${texts[colouring]} ${hasAttention ? WEIGHTS : NO_WEIGHTS}`),
    );
  }

  #table(tokens, emotions) {
    const heads = ["Word", "Valence", "Arousal", "Dominance", "State", "Inclination", "Attention", "Intensity"];
    byId("word-table-head").replaceChildren(make("tr", {}, ...heads.map((head) => make("th", { scope: "col" }, head))));
    byId("word-table").replaceChildren(
      ...tokens.map((token) => {
        const trait = ["valence", "arousal", "dominance"].map((name) => token.trait?.[name].toFixed(2));
        const [state] = largest(token.state, 1);
        const [inclined] = largest(token.standardised, 1);
        const cells = [
          `${emotions[state]} ${percent(token.state[state])}`,
          `${emotions[inclined]} ${token.inclination[inclined].toFixed(2)}`,
          token.attention === null ? "–" : percent(token.attention),
          token.intensity.toFixed(2),
        ];
        return make(
          "tr",
          {},
          make("th", { scope: "row" }, token.token),
          ...(token.trait ? trait.map((cell) => make("td", {}, cell)) : [make("td", { colspan: "3" }, OUTSIDE)]),
          ...cells.map((cell) => make("td", {}, cell)),
        );
      }),
    );
  }
}

/** Return a word's numbers in words, a line each. */
function describe(token, emotions) {
  const { trait, state, inclination, standardised } = token;
  const [inclined] = largest(standardised, 1);
  const states = largest(state, 3).map((place) => `${emotions[place]} ${percent(state[place])}`);
  const traits = trait && Object.entries(trait).map(([name, value]) => `${name} ${value.toFixed(2)}`);
  const distance = `${standardised[inclined].toFixed(1)} sd above the mean`;
  const weight = token.attention === null ? "" : `attention ${percent(token.attention)}, `;
  return [
    `Trait: ${traits ? traits.join(", ") : OUTSIDE}`,
    `State: ${states.join(", ")}`,
    `Inclination: ${emotions[inclined]}, cosine ${inclination[inclined].toFixed(2)} (${distance})`,
    `Weight: ${weight}intensity ${token.intensity.toFixed(2)}`,
  ];
}
