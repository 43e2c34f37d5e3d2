from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctsm.text.detokenise import Detokeniser, detokenise

READABLE = [
    ("i am sorry that your kite sank .", "I am sorry that your kite sank."),
    ("oh no ! that is awful . did you tell her ?", "Oh no! That is awful. Did you tell her?"),
    ("i would n't worry , she 's fine", "I wouldn't worry, she's fine"),
    ("i can not swim", "I can not swim"),
    ("i 'll go if they 're late and we 've time and i 'd like it and i 'm in",
     "I'll go if they're late and we've time and I'd like it and I'm in"),
    ("he has n't called", "He hasn't called"),
    ("she said `` go away '' to me .", 'She said "go away" to me.'),
    ("she said \" go away \" to me .", 'She said "go away" to me.'),
    ("`` never again . '' i meant it .", '"Never again." I meant it.'),
    ("they called me ' lazy ' at work", "They called me 'lazy' at work"),
    ("this is ' fine '", "This is 'fine'"),
    ("my parents ' house", "My parents' house"),
    ("well ... i guess so", "Well... I guess so"),
    ("we left ( all of us ) early ; it rained : a lot", "We left (all of us) early; it rained: a lot"),
    ("i paid $ 40 , 15 % more", "I paid $40, 15% more"),
    ("nice : ) thanks", "Nice :) thanks"),
    ("oh ; )", "Oh ;)"),
    ("sad : (", "Sad :("),
    ("wait :", "Wait:"),
    ("one : two ; three", "One: two; three"),
    ("i am gon na cry and i wan na go and i got ta run , gim me a break and lem me be",
     "I am gonna cry and I wanna go and I gotta run, gimme a break and lemme be"),
    ("i love it < 3", "I love it <3"),
    ("really ? ! wow ! ! !", "Really?! Wow!!!"),
    ("dr. green was there . so was i .", "Dr. green was there. So was I."),
    ("i was 18. it was long ago", "I was 18. It was long ago"),
    ("24 is young .", "24 is young."),
    ("great . \U0001f600 what a day", "Great. \U0001f600 What a day"),
    ("a \u201c quoted \u201d word", "A \u201cquoted\u201d word"),
    ("salt & pepper -- # 1", "Salt & pepper -- #1"),
    (". , !", ".,!"),
    ("\u00e9t\u00e9 was warm", "\u00c9t\u00e9 was warm"),
    ("", ""),
]  # fmt: skip


@pytest.mark.parametrize(("tokens", "text"), READABLE)
def test_readable_english(tokens: str, text: str) -> None:
    assert detokenise(tokens.split()) == text


def test_empty_tokens_are_skipped() -> None:
    assert detokenise(["", "hello", " ", "", "there", ""]) == "Hello there"


TOKENS = st.lists(
    st.sampled_from(
        [
            ".",
            ",",
            "!",
            "?",
            ":",
            ";",
            "(",
            ")",
            "``",
            "''",
            '"',
            "'",
            "n't",
            "'s",
            "i",
            "gon",
            "na",
            "...",
            "",
            "$",
            "is",
        ]
    )
    | st.text(max_size=4)
    | st.sampled_from(["hello", "18.", "\U0001f600", "\u201c", "\u00df", "boys"])
)


@given(TOKENS)
def test_pieces_join_to_the_whole_and_every_prefix_stays(tokens: list[str]) -> None:
    detokeniser = Detokeniser()
    so_far = ""
    whole = detokenise(tokens)
    for token in tokens:
        so_far += detokeniser.push(token)
        assert whole.startswith(so_far)
    assert so_far + detokeniser.finish() == whole


@given(TOKENS)
def test_only_spaces_quotes_and_case_change(tokens: list[str]) -> None:
    def bare(text: str) -> str:
        return "".join(character for character in text.upper() if character not in "`'\"" and not character.isspace())

    assert bare(detokenise(tokens)) == "".join(bare(token) for token in tokens)


@given(TOKENS)
def test_outer_spaces_never_appear(tokens: list[str]) -> None:
    text = detokenise(tokens)
    assert text == text.strip()


@given(st.lists(st.sampled_from(["rain", "garden", "seven", "tea", "quiet"]), min_size=1))
def test_plain_words_form_one_sentence(words: list[str]) -> None:
    assert detokenise(words) == " ".join(words).capitalize()
