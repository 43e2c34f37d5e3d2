// The 32 emotions: their order, and colours for groups of them.

/** Similar ones side by side, from pleasant (the first half) to unpleasant; as in `ctsm.analysis.order`. */
export const DISPLAYED = [
  "joyful", "excited", "grateful", "proud", "impressed", "confident", "content", "trusting",
  "faithful", "caring", "hopeful", "anticipating", "prepared", "sentimental", "nostalgic", "surprised",
  "apprehensive", "anxious", "afraid", "terrified", "lonely", "sad", "disappointed", "devastated",
  "embarrassed", "ashamed", "guilty", "jealous", "annoyed", "angry", "furious", "disgusted",
];

/** Groups with a colour each, as 32 cannot be told apart; as in `ctsm.serving.heatmap`. */
export const FAMILIES = {
  glad: ["joyful", "excited", "proud", "content", "impressed", "grateful", "surprised"],
  trusting: ["trusting", "faithful", "confident", "hopeful", "prepared", "caring", "anticipating"],
  sad: ["sad", "lonely", "devastated", "disappointed", "sentimental", "nostalgic"],
  afraid: ["afraid", "terrified", "anxious", "apprehensive"],
  angry: ["angry", "annoyed", "furious", "jealous", "disgusted"],
  guilty: ["guilty", "ashamed", "embarrassed"],
};

const FAMILY_OF = new Map(Object.entries(FAMILIES).flatMap(([name, members]) => members.map((one) => [one, name])));

/** Return the group of an emotion. */
export const familyOf = (emotion) => FAMILY_OF.get(emotion);

/** Return which of five steps a valence in [0, 1] is on, from 1 (very unpleasant) to 5 (very pleasant). */
export const valenceStep = (valence) => Math.min(5, Math.floor(5 * valence) + 1);

/** Return the places of the largest numbers, the largest first. */
export function largest(numbers, count) {
  return numbers.map((_, place) => place).sort((a, b) => numbers[b] - numbers[a]).slice(0, count);
}

/** Return [emotion, probability] of all, the most probable first or in the order of `DISPLAYED`. */
export function ordered(probabilities, order) {
  const entries = Object.entries(probabilities);
  if (order === "kind") return entries.sort((a, b) => DISPLAYED.indexOf(a[0]) - DISPLAYED.indexOf(b[0]));
  return entries.sort((a, b) => b[1] - a[1]);
}
