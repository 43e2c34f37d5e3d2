"""Words of events and utterances in one common form, so that "My dogs were barking" meets "PersonX's dog barks"."""

from __future__ import annotations

import re
from functools import lru_cache

_SENTENCE_END = re.compile(r"[.!?;\n]+")
_WORD = re.compile(r"[a-z]+(?:'[a-z]+)?")
_NEGATION = re.compile(
    r"\b(?:do|does|did|is|ai|are|was|were|has|have|had|ca|wo|could|would|should|might|must|need)? ?n'?t\b"
)
_VOWEL = re.compile(r"[aeiouy]")
_PLACEHOLDER = re.compile(r"\bperson ?[xyz]\b(?:'s)?|_+")

DROPPED = frozenset(
    word
    for line in (
        "i me my mine myself we us our ours ourselves you your yours yourself he him his himself she her hers",
        "herself it its itself they them their theirs themselves this that these those a an the one some any all",
        "each every other another both own same such much many more most few lot kind sort thing stuff something",
        "as is am are was were be been being s m re ve ll d would should will could can may might must shall and",
        "or but because if then than so too also just even only very really still always ever again once almost",
        "anything everything of to in on at for with by about into from between when while where there here what",
        "which who how why now soon already yet actually definitely probably maybe finally usually sometimes often",
        "recently yesterday today tonight tomorrow oh yeah yes ok okay hi hey",
    )
    for word in line.split()
)
"""Pronouns, articles, auxiliaries, times and fillers: words that do not tell which event it is."""

_IRREGULAR = {
    "went": "go", "gone": "go", "got": "get", "gotten": "get", "had": "have", "has": "have", "did": "do", "done": "do",
    "does": "do", "made": "make", "said": "say", "told": "tell", "took": "take", "taken": "take", "came": "come",
    "saw": "see", "seen": "see", "knew": "know", "known": "know", "thought": "think", "found": "find", "gave": "give",
    "given": "give", "felt": "feel", "left": "leave", "kept": "keep", "brought": "bring", "bought": "buy",
    "caught": "catch", "taught": "teach", "lost": "lose", "met": "meet", "ran": "run", "sat": "sit", "stood": "stand",
    "heard": "hear", "held": "hold", "wrote": "write", "written": "write", "spoke": "speak", "spoken": "speak",
    "broke": "break", "broken": "break", "drove": "drive", "driven": "drive", "ate": "eat", "eaten": "eat",
    "drank": "drink", "drunk": "drink", "slept": "sleep", "woke": "wake", "won": "win", "fell": "fall",
    "fallen": "fall", "flew": "fly", "flown": "fly", "grew": "grow", "grown": "grow", "threw": "throw",
    "thrown": "throw", "sold": "sell", "sent": "send", "spent": "spend", "built": "build", "paid": "pay",
    "fought": "fight", "stole": "steal", "stolen": "steal", "forgot": "forget", "forgotten": "forget",
    "chose": "choose", "chosen": "choose", "hid": "hide", "hidden": "hide", "rode": "ride", "ridden": "ride",
    "sang": "sing", "sung": "sing", "swam": "swim", "wore": "wear", "worn": "wear", "bit": "bite", "bitten": "bite",
    "shook": "shake", "shaken": "shake", "led": "lead", "dug": "dig", "hung": "hang", "lent": "lend", "shot": "shoot",
    "stuck": "stick", "blew": "blow", "blown": "blow", "drew": "draw", "drawn": "draw", "froze": "freeze",
    "began": "begin", "begun": "begin", "became": "become", "children": "child", "kids": "child", "kid": "child",
    "men": "man", "women": "woman", "people": "person", "feet": "foot", "teeth": "tooth", "mice": "mouse",
    "wives": "wife", "lives": "life", "mom": "mother", "mum": "mother", "mommy": "mother", "dad": "father",
    "daddy": "father", "grandma": "grandmother", "grandpa": "grandfather", "bf": "boyfriend", "gf": "girlfriend",
    "scared": "scare", "goes": "go", "going": "go", "doing": "do", "died": "die", "dying": "die", "lied": "lie",
    "lying": "lie", "used": "use", "using": "use", "cannot": "not", "never": "not", "no": "not",
}  # fmt: skip


def sentences(text: str) -> list[str]:
    """Split a lower-cased or raw text at sentence ends and line breaks; empty pieces are left out."""
    return [piece for piece in _SENTENCE_END.split(text) if piece.strip()]


def content_words(text: str) -> list[str]:
    """Return the words of an event or a sentence that tell what happens, in one form per word.

    PersonX, PersonY, blanks (___) and DROPPED words are left out; irregular verbs and some names of relatives are
    looked up; the rest goes through `stem`. A negation joins the next word ("could not sleep" -> "not_sleep"), so that
    sleeping and not sleeping are different events.
    """
    lowered = text.lower().replace("\u2019", "'")
    lowered = _NEGATION.sub(" not", _PLACEHOLDER.sub(" ", lowered))
    found: list[str] = []
    prefix = ""
    for word in _WORD.findall(lowered):
        word = word.split("'")[0]
        if word in DROPPED:
            continue
        form = stem(word)
        if form == "not":
            prefix = "not_"
        else:
            found.append(prefix + form)
            prefix = ""
    return found


@lru_cache(maxsize=1 << 16)
def stem(word: str) -> str:
    """Reduce a lower-case word to a form shared by its inflections: barks, barked, barking -> bark.

    The form need not be a word (hope, hoping -> hop; study, studied -> studi): it is only compared with others made
    the same way.
    """
    word = _IRREGULAR.get(word, word)
    if len(word) > 3 and word.endswith("s") and not word.endswith("ss"):
        word = word[:-3] + "y" if len(word) > 5 and word.endswith("ies") else word[:-1]
        word = _IRREGULAR.get(word, word)
    for suffix, kept in (("ied", "y"), ("ing", ""), ("ed", "")):
        base = word.removesuffix(suffix)
        if base != word and len(base) >= 3 and _VOWEL.search(base):
            word = base + kept
            break
    if len(word) > 3 and word.endswith("e"):
        word = word[:-1]
    if len(word) > 3 and word[-1] == word[-2]:
        word = word[:-1]
    return word[:-1] + "i" if len(word) > 2 and word.endswith("y") else word
