"""The frozen behaviour of the tokeniser: expected tokens follow from the Treebank rules, written out by hand."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nltk.tokenize.destructive import MacIntyreContractions, NLTKWordTokenizer

from ctsm.text.tokenise import _SPLIT_WORDS, sentences, tokenise

SPLIT = [*sorted(_SPLIT_WORDS), "whaddya", "whatcha", "i", "am", "not"]

# A list of tokens is written as one string with spaces.
FROZEN = [
    ("My cat ran off last night.", "my cat ran off last night ."),
    ("Oh no! Did it come home?", "oh no ! did it come home ?"),
    ("I was late for work. My boss shouted at me. It hurt.",
     "i was late for work . my boss shouted at me . it hurt ."),
    ("no full stop at the end", "no full stop at the end"),
    ("I can't swim", "i can not swim"),
    ("I cannot swim", "i can not swim"),
    ("Don't worry, it's fine.", "do not worry , it is fine ."),
    ("I wouldn't do that.", "i would n't do that ."),
    ("He hasn't called and she's sad.", "he has n't called and she 's sad ."),
    ("I'll ask if we're late.", "i 'll ask if we 're late ."),
    ("You'd think they'd know.", "you would think they 'd know ."),
    ("My sister's dog bit my parents' guest.", "my sister 's dog bit my parents ' guest ."),
    ('She said "go away" to me.', "she said `` go away '' to me ."),
    ('"Never again." I meant it.', "`` never again . '' i meant it ."),
    ("They called me 'lazy' at work.", "they called me ' lazy ' at work ."),
    ("Well... I guess so.", "well ... i guess so ."),
    ("hmm.. maybe", "hmm .. maybe"),
    ("It was so good!!! Really?!", "it was so good ! ! ! really ? !"),
    ("We left (all of us) early; it rained: a lot.", "we left ( all of us ) early ; it rained : a lot ."),
    ("I paid $40, about 15% more.", "i paid $ 40 , about 15 % more ."),
    ("It cost 1,200 at 5:30 today.", "it cost 1,200 at 5:30 today ."),
    ("Dr. Green met Mrs. Hill and Mr. Ford.", "dr. green met mrs. hill and mr. ford ."),
    ("We flew to the U.S. last year.", "we flew to the u.s. last year ."),
    ("The bus left at 7 a.m. without me.", "the bus left at 7 a.m. without me ."),
    ("We eat at 6 p.m.", "we eat at 6 p.m ."),
    ("cake, tea, etc. for all", "cake , tea , etc. for all"),
    ("I fell ill. Then I slept.", "i fell ill . then i slept ."),
    ("I'm gonna cry, I wanna go and I gotta run.", "i am gon na cry , i wan na go and i got ta run ."),
    ("Gimme a minute, lemme think.", "gim me a minute , lem me think ."),
    ("my well-known co-worker", "my well-known co-worker"),
    ("one -- or two", "one -- or two"),
    ("wait\u2014what", "wait \u2014 what"),
    ("salt & pepper @ home #1", "salt & pepper @ home # 1"),
    ("so *very* tired", "so * very * tired"),
    ("nice :) thanks", "nice : ) thanks"),
    ("I love it <3", "i love it < 3"),
    ("great \U0001f600 news\U0001f600", "great \U0001f600 news\U0001f600"),
    ("a \u201cquoted\u201d word", "a \u201c quoted \u201d word"),
    ("I\u2019m sure you don\u2019t", "i am sure you do not"),
    ("It ended.Then we left.", "it ended.then we left ."),
    ("first line\nsecond\tline", "first line second line"),
    ("nul\x00byte zero\u200bwidth", "nul byte zerowidth"),
    ("either/or and C++", "either/or and c++"),
    ("", ""),
    (" \x00\u200b ", ""),
    ("...", "..."),
]  # fmt: skip


@pytest.mark.parametrize(("text", "tokens"), FROZEN)
def test_frozen(text: str, tokens: str) -> None:
    assert tokenise(text) == tokens.split()


@settings(deadline=None)
@given(st.text(alphabet=st.characters()) | st.text(alphabet="aS'\"`.,!?-()<3 \n$%I'nt"))
def test_any_text_gives_clean_tokens(text: str) -> None:
    for token in tokenise(text):
        assert token.split() == [token]
        assert token == token.lower()
        token.encode("utf-8")


@settings(deadline=None)
@given(st.lists(st.sampled_from(["rain", "garden", "seven", "tea", "quiet"])))
def test_plain_words_are_their_own_tokens(words: list[str]) -> None:
    assert tokenise("  ".join(words)) == words


def test_long_text_keeps_every_word() -> None:
    sentence = "we walked home , and it rained ."
    assert tokenise(" ".join([sentence] * 800)) == sentence.split() * 800


def test_importing_is_light() -> None:
    code = "import sys, ctsm.text.tokenise; sys.exit('nltk' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@given(st.lists(st.one_of(st.sampled_from(SPLIT), st.from_regex("[a-z]{1,7}", fullmatch=True)), min_size=1, max_size=6))
def test_words_between_spaces_are_what_nltk_makes_of_them(words: list[str]) -> None:
    text = " ".join(words)
    tokens = [token for sentence in sentences(text) for token in NLTKWordTokenizer().tokenize(sentence)]
    assert tokenise(text) == tokens


def test_every_word_that_nltk_divides_is_known() -> None:
    """From NLTK's own list: the words without an apostrophe, as it writes them in two groups."""
    divided = ["".join(re.findall(r"\(([a-z']+)\)", one)) for one in MacIntyreContractions.CONTRACTIONS2]
    assert {word for word in divided if word.isalpha()} == _SPLIT_WORDS
