"""Words that hold a sentence together and name nothing: none of them is an emotion word or has concepts."""

from __future__ import annotations

from typing import Final

_ARTICLES_PRONOUNS: Final = """
    a an the i me my mine myself we us our ours ourselves you your yours yourself yourselves he him his himself she her
    hers herself it its itself they them their theirs themselves one ones who whom whose which what this that these
    those someone somebody something anyone anybody anything everyone everybody everything nobody nothing
"""
_AUXILIARIES: Final = """
    be am is are was were been being have has had having do does did doing done can could will would shall should may
    might must ought cannot need s t m d re ve ll n't 's 'm 'd 're 've 'll im ive dont didnt doesnt cant couldnt wont
    wouldnt isnt wasnt arent werent havent hasnt hadnt thats whats theres hes shes theyre youre
"""
_PREPOSITIONS_CONJUNCTIONS: Final = """
    of in on at by for with about against between among into onto through during before after above below to from up
    down out off over under around near within without across behind beyond toward towards upon until till since per
    than as like and or but nor so yet if because while although though unless whether whereas
"""
_ADVERBS_QUANTITIES_FILLERS: Final = """
    not no too very just only also even still then there here when where why how again once ever never now already else
    both either neither really quite rather almost maybe perhaps all any each every few many much more most less least
    other another some such same own several enough lot lots oh ah um uh hmm yeah yes yep yea ok okay lol haha hi hey
    wow well
"""

FUNCTION_WORDS: Final[frozenset[str]] = frozenset(
    (_ARTICLES_PRONOUNS + _AUXILIARIES + _PREPOSITIONS_CONJUNCTIONS + _ADVERBS_QUANTITIES_FILLERS).split()
)
