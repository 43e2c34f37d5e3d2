"""The care filter: messages that suggest self-harm or danger get a fixed message instead of a model's reply.

Everything about it is in this file: the wording, and the patterns that call for it. To change either, edit it here;
tests/care holds the messages that it is measured on, docs/care.md what it can and cannot do.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import cache
from typing import Final

NOTICE: Final = (
    "I am only a computer program, and this needs a person. It sounds as if you, or someone near you, may be in danger "
    "or in great pain. If anyone could get hurt now, please call your local emergency number or go to the nearest "
    "hospital. Please also tell somebody you trust, a doctor or a crisis line where you live. "
    "You do not have to face this alone."
)
"""No telephone number: which one is right depends on where the reader is."""

NO_CARE_HELP: Final = "reply to messages that suggest self-harm or danger too, instead of pointing to help"
"""What the verbs say of their flag --no-care."""

# Patterns are written over normalised text: lower-case words with single spaces, without apostrophes ("dont"), "." for
# every end of a sentence and "," for a comma. <1> to <8> stand for up to so many words in between, the names for the
# parts below; no group captures. All quantifiers are bounded and no word can be split in two ways, so that
# a search takes time linear in the text.
_PARTS: Final = {
    "not": (
        r"(not|never|no longer|dont|doesnt|didnt|wont|wouldnt|cannot|cant|isnt|arent|wasnt|do not|does not|did not"
        r"|will not|would not|is not|am not|im not)"
    ),
    "very": r"( (really|just|even|ever|actually|honestly|simply|only|so|also|still|literally|at all|fucking)){0,2}",
    "end": r"(?= [.,])",
    "more": r"( anymore| any more| any longer| any day longer| again| like this| tonight| tomorrow| either)",
    "kill": r"(kil|kill|kills|kiling|killing|killed)",
    "my_self": r"(my ?self|mysef|myslef)",
    "other_self": r"(himself|herself|themself|themselves)",
    "suicide": r"(suicide|suicides|sucide|suicde|suiside)",
    "suicidal": r"(suicidal|sucidal|suicial|suicidial)",
    "want": (
        r"(want to|wants to|wanted to|wanna|ready to|deserve to|need to|try to|tried to|trying to|going to|gonna"
        r"|plan to|planning to|urge to|wish i could|have to|like to|about to|might)"
    ),
    "think": r"(think|thinks|thinking|thought|thoughts|dream|dreaming|imagine|imagining|fantasise|fantasize)",
    "nobody": r"(nobody|no one|noone)",
    "person": (
        r"(he|she|they|husband|wife|boyfriend|girlfriend|bf|gf|partner|fiance|ex|dad|father|mom|mum|mother|stepdad"
        r"|stepfather|stepmom|stepmother|uncle|aunt|brother|sister|cousin|grandfather|son|boss|coach|teacher|man|guy"
        r"|stranger|somebody|someone|parents|roommate|neighbour|neighbor|who)"
    ),
    "family": (
        r"(family|kids|kid|children|child|baby|son|daughter|wife|husband|mother|mom|mum|father|dad|brother|sister)"
    ),
    "weapon": r"(knife|gun|machete|axe|pistol|rifle)",
    "pills": r"(pills|tablets|painkillers|meds|medication|medicine|antidepressants)",
    "poison": r"(bleach|poison|antifreeze|pesticide|drain cleaner)",
    "will": r"(will|would|is going to|was going to|are going to|going to|gonna|wants to|might|is about to)",
    "hit": (
        r"(hits|hit|hitting|slaps|slapped|punches|punched|kicks|kicked|strangles|strangled|chokes|choked|beats"
        r"|beat|hurts|hurt|burns|burned|stabbed|whips|whipped)"
    ),
    "sport": (
        r"(?! up the| back| with (a (snow|pillow|ball|frisbee)|his car)| under the| at| by| in (a|the|chess|our)"
        r"| to (it|the)| a bit| hard| on the (back|arm|shoulder)| out| down for)"
    ),
    "high_place": r"(roof|rooftop|bridge|building|balcony|cliff|ledge|window)",
}

HARMLESS: Final = (
    # Figures of speech, titles and topics.
    r"rather die than",
    r"(embarrassed|mortified|awkward) (that )?i (just )?(want|wanted|wanna|could have)( to)? die",
    r"<kill> <my_self> (laughing|to|for|over|at|with work|working)",
    r"shoot <my_self> in the foot",
    r"<suicide> (squad|prevention|hotline|helpline|awareness|rate|rates|bomber|bombing|doors)",
    r"(documentary|film|movie|book|novel|lecture|article|class|course|study|song) (on|about)<2> "
    r"(<suicide>|self ?harm|dying|death)",
    r"bungee (jump|jumping)<3> <high_place>",
    r"(end|ending|ended) (my life as|it all with)",
    r"(life|living) (hacks|insurance|room|coach)",
    r"die (laughing|(of|from) (laughter|laughing|embarrassment|boredom|curiosity|joy|happiness))",
    r"(relationship|friendship|engagement|subscription|contract|lease|membership)"
    r"(?!( is| was)? (over|ended|finished|broken))<8> end it",
    r"jumping (off|from|out of)<3> <high_place> (with|for) (joy|happiness|excitement)",
    # Pain of the body, and medicine.
    r"(tooth|teeth|toothache|dentist|headache|migraine|cramps|surgery|my (back|knee|leg|foot|ankle|stomach|shoulder"
    r"|ear))(<8>|<5> [.]<5>) pain to (stop|end|go away|be over)",
    r"(took|taken|take|swallowed)<2> (all|both|whole)<2> <pills><4>(?<! not)(?<! of)"
    r" (as (prescribed|directed|instructed|recommended)|on time)",
    # Accidents.
    r"cut <my_self> (a|some|another)<1> (slice|piece|bit)",
    r"(cut|burn|burned|burnt|hurt) <my_self><5> (shaving|cooking|chopping|slicing|accident|accidentally|oven|stove"
    r"|practice|training|gym|glass|paper)",
    # What somebody says is not so, or is over.
    r"(?<!why )(?<!can )(?<!could )(?<!may )(?<!might )(?!cant|cannot)<not><very>( <want>)?<very>"
    r" (<kill>|hurt|harm|hang|cut) (<my_self>|yourself|anyone|anybody|someone|people)(?! yet|( only| just)? because)",
    r"(<not>|once|used to)<very>( <want>| want to)?<very> die",
    r"<not><very> (cut|cuts|hurt|hurts|harm|harms) <other_self>",
    r"<not><very> (hits|hit|beats|beat|slaps|hurts|hurt|kicks) (me|us)",
    r"(hits|hit|hitting) (me|us) up(?! against)",
    r"<hit> (me|us) with (a|an|the|some|his|her|their)<2> (surprise|news|question|bill|idea|joke|pun|fact|story"
    r"|proposal|compliment|request|invoice|deadline)",
    r"(toddler|baby|wave|news|it|truth|reality|heat|sun|cold|smell) (hits|beats|kicks|slaps) me",
    r"<not><very>( feeling| feel| be)?<very> <suicidal>",
    r"used to (be <suicidal>|cut <my_self>|hurt <my_self>|harm <my_self>|self ?harm|want to die)",
    r"was <suicidal> (last year|years ago|as a|when i was (young|younger|little|a (child|kid|teen|teenager|student)"
    r"|in (school|high school|college)|1[0-9])|in high school|in college|back then|(once|before)<end>)",
)
"""Taken out of the text before `DANGEROUS` is looked for. Words in between are none of those of `_NEVER_SKIPPED`."""

_NEVER_SKIPPED: Final = r"(?!(?:myself|kill|die|dead|death|suicide|suicidal|overdose|jump|cut|end)\b)"
"""What is harmless must not take out what stands in its middle and is not."""

SUICIDE: Final = (
    # Said directly.
    r"<kill> <my_self>",
    r"(hang|hanging|shoot|shooting|drown|drowning|gas|poison|strangle|suffocate|unalive|unaliving|off"
    r"|offing) <my_self>",
    r"(kms|kys|unalive)",
    r"kill (yourself|urself|your self)<end>",
    r"<suicidal>",
    r"(my|commit|comit|committing|attempt|attempting|attempted|considering|contemplating|planning) <suicide>",
    r"<think>( about| of)<2> <suicide>",
    r"<suicide> (note|letter|attempt|pact|is|seems)",
    r"(end|ending|ended|take|taking) my (own )?life",
    r"(end|ending) it (all|tonight|today|now|for good)",
    r"(want to|wanna|<think> (of|about)) (end|ending) (everything|it<end>|things<end>)",
    r"(going to|gonna|ready to|about to|have to|need to|ill|i will)<very> end it(<end>|<more>)",
    r"want it (all to (end|be over)|to (end|be over) (for good|forever))",
    r"(want to|wants to|wanted to|wanna|ready to|deserve to|need to|wish i could|rather)<very> die",
    r"<want><very> (be dead|not exist|not be here|stop existing|overdose|be out of this life)",
    r"(hate|disgusted)<2> <my_self><4> die",
    r"(want|wants) out of (this|my) life",
    r"(just|<want>)<very>( go to)? (disappear|be gone|sleep) (forever|for good)",
    r"wish<3> (dead|never born|didnt exist|did not exist|not alive|not wake up|never wake up|never woke up"
    r"|wasnt alive|wasnt here)",
    r"(sleep|bed|pills)<3> (never|not) wake up",
    r"(pills|drugs)<5> to (not wake up|die)",
    r"better off( dead|<2> without me| if i (was|were|am|died))",
    r"(world|everyone|everybody|family|kids) would be (better|happier)<1> (without me|if i)",
    r"(ways|way|how) to (die|<kill> yourself|<kill> oneself)",
    r"<think>( about| of) (dying|death|my death|being dead)( all| every| constantly| each| daily| a lot|<end>)",
    r"<think>( about| of| my own)<2> funeral<3> (peaceful|calm|relief|better)",
    r"<think> about how i would do it",
    r"ill be dead (soon|tomorrow|by|anyway|before)",
    r"(should|rather|supposed to) be dead",
    r"(if|when|once) i (was|were|am|wasnt|werent) (gone|dead|not here|not alive|not around|here|around)(<end>|<more>)",
    r"if i (didnt|did not|never|no longer|stopped) (exist|existed|existing)",
    r"(hope|hoping|pray|praying|wish|wishing)<2> i (die|dont wake up|never wake up|do not wake up|would die|had died"
    r"|died)",
    r"wish (the|that|a|some)<3> (had|would|would have)<1> (hit|kill|killed) me",
    r"(shouldnt|should not|should never)<2> (exist|be alive|be here anymore|been born)",
    r"(hate|hates) being alive",
    r"(no|lost|lose|losing)<2> will to (live|(go on|carry on|continue|keep going)(<end>|<more>| living))",
    r"death is the only",
    r"(only|last) (answer|way out|option|solution|escape)( is| left)<2> (death|die|dying)",
    r"(want|need) (the|this|my|all the) pain to (stop|end|go away|be over)(<end>|<more>| forever| for good)",
    r"(make|want) (it all|everything)( to)? (stop|go away|end)",
    r"(end|stop) (the|my|this) (pain|suffering|misery)<3> (forever|for good|once and for all|tonight)",
    r"(want to|going to|ready to|soon)<2> (join|be with|see) (him|her|them|my<1>)( again)? in heaven",
    # Indirectly: no wish or reason to live, goodbyes.
    r"(<not>|no)<very> <want><very> (live|exist|be alive|be here|be in this world|wake up|go on|keep going)(<more>"
    r"|<end>| without)",
    r"(<not>|no)<very> <want><very> (exist|be alive)",
    r"<not><very> (deserve|deserves) to (live|be alive|be here|exist)(<end>|<more>)",
    r"(cant|cannot|dont)<very> see <my_self> (being|living) (here|alive)",
    r"<not><very> care (if|whether) i (live|die|wake up|survive)",
    r"(nothing|<nobody>)( left)?<2> to live for",
    r"(no|any|a) (reason|point|sense|meaning)<3> (to|in|of) (live|living|go on living|going on living|keep going"
    r"|go on|going on|being alive|be alive|carry on)(?! so| in)",
    r"point (of|in) (living|life|going on|being alive)(?! so| in)",
    r"(life|living)<1> (not|isnt|no longer|never|aint|hardly|barely)<1> worth (living|it)",
    r"(isnt|not|no longer) worth living(<more>|<end>)",
    r"life (has no (meaning|point|sense|purpose)|is (pointless|meaningless|hopeless))",
    r"burden (to|on) (everyone|everybody|my family|them all)",
    r"no way out( for me|<end>| anymore)",
    r"tell (my <family>|them|her|him)<1> i loved",
    r"(give|giving|gave|given) up on (life|living)",
    r"(done|tired|sick|finished)( with| of) (my )?(life|living|being alive)(?! in| at| as| here| out| with| on)",
    r"(cant|cannot|can not)<very> go on(<more>| living|<end>)",
    r"wont (make it|survive|get) (through|until|past|to) (the night|tonight|tomorrow|morning)",
    r"(<nobody>|who) (would|will)<very> (notice|care|miss me)<1> if i<2> (die|died|dead|gone|disappeared|vanished"
    r"|killed|stopped|wasnt|didnt)",
    r"<nobody> (would|will)<very> miss me",
    r"(not|cant|cannot|dont)<very> (see|have) (a|any) (future|way out)( for me|<end>)",
    r"(way out|escape|option)<2> (except|but|than|is) (dying|death|to die)",
    r"(hurt|better|easier|stop)<2> if i was<1> gone",
    r"(goodbye|farewell) (letters|notes)",
    r"this is (my )?(last )?goodbye(?! to)",
    r"goodbye (everyone|everybody|world|forever)",
    r"wont need (them|it|anything|any of it)( where|<more>)",
)

PLANS: Final = (
    r"(took|taken|swallowed|take|eat)<1> (whole|entire|lot|too many|handful|bunch|all)<4> <pills>(?! every)",
    r"overdosed( on<3> (<pills>|drugs|heroin)|<end>| again| last| and)",
    r"(drank|drunk|swallowed|drink|swallow)<2> <poison>",
    r"(saving|saved|hoarding|collecting|stockpiling)( up)?<2> <pills>",
    r"(<want>|<think>|about|could|should|(feel|felt|feeling) like)<3> (jump|jumping) (off|from|out of)<3> <high_place>",
    r"<high_place><3> (thinking|want|wanting|ready|about)<2> (jump|jumping)",
    r"(step|stepping|jump|jumping|throw myself|throwing myself|walk|lie) in front of (a|the|that) (train|bus|truck"
    r"|car)",
    r"(drive|driving|crash|crashing|steer|steering)<3> (into a (tree|wall|pole|truck)|off (a|the) (cliff|bridge))",
    r"(rope|<weapon>|blade|razor|<pills>)<6> (do it|use it on (myself|me)|end it)",
    r"<weapon> to my (head|throat|chest|wrist)",
    r"(took|taken|taking|take) an overdose",
    r"<high_place><6> (nearly|almost|wanted to|could have) (jump|jumped)",
    r"edge of (the|a) (platform|roof|bridge|rooftop)",
    r"(throw|throwing|threw) <my_self> (off|under|in front|out)",
)

SELF_HARM: Final = (
    r"(cut|cutting|slit|slitting|slash|slashing) (<my_self>|my (wrist|wrists|arms|thighs|legs|skin|throat))",
    r"(cut|cuts|cutting|hurts|hurting|harms|harming) <other_self>(<end>| again| and| in| with| every| because| when)",
    r"(started|start|keep|keeps) (self )?cutting (and i|again|because|when|\.)",
    r"(urge|need|want) to (cut|hurt|harm|burn)( <my_self>| is| so|<end>)",
    r"(<want>|may|could|will|ill)<very> (hurt|harm|burn) <my_self>(<end>|<more>| because| when| so| bad| badly| and)",
    r"(starve|starving|punish|punishing) my ?(self|body)",
    r"(hurt|hurting|harm|harming|burn|burning) <my_self> (when i|again|on purpose|every"
    r"|to feel|so i|with a|because i (feel|deserve|hate|cant|need|want|have))",
    r"(i|im|ive|me|my|keep|<think> (of|about))<4> self ?(harm|harming|harmed|injure|injury)",
    r"self ?(harm|harming|injury)<6> (me|i|my)",
    r"keep <my_self> safe",
    r"trust <my_self> (tonight|alone|right now)",
    r"what i (might|may|will|could) do to <my_self>",
    r"(do|doing) something<2> to <my_self>",
    r"(carve|carved|carving|scratched|scratching)<3> (into|on) my (arm|arms|skin|leg|thigh|thighs|wrist)",
    r"(i|ive|she|he)( have| has)? been cutting( <my_self>| <other_self>| since| again|<end>)",
)

OTHERS_AT_RISK: Final = (
    r"(says|said|saying|told|texted|wrote|wants|threatens|threatened|threatening|going|will|might|trying|tries"
    r"|plans)<5>"
    r" (kill|hurt|harm|hang|shoot|cut|killing) <other_self>",
    r"(says|said|told|texted|wrote|wants|threatens|threatened|going|will|might|plans)<6> (end|take|ending|taking)"
    r" (his|her|their) (own )?life",
    r"(<not>|cant) (wake up|waking up|breathe|breathing)<end>",
    r"having a (stroke|seizure)",
    r"think<2> having a heart attack",
    # Wanting to hurt others.
    r"<want><very> (kill|stab|shoot|murder)<6> (<weapon>|right now)",
    r"<want><very> (hurt|harm|kill|stab|shoot|murder) (my <family>|people<end>|someone<end>|somebody<end>|everyone)",
    r"<want><very> (shoot up|blow up the|shoot everyone)",
    r"(could|want to|will|going to|gonna)<very> (shoot|kill|stab) (them all|everyone|everybody|people)",
    r"(feel like|<think> about|<think> of|urge to|scared of|afraid of)"
    r" (hurting|harming|killing|stabbing|shaking|smothering|drowning|hurt|harm|kill) (someone"
    r"|somebody|people|others|him|her|them|my <family>)",
    r"(ill|i will|i might|i could|i may) (hurt|harm|kill|shake) my <family>",
    r"cant stop the bleeding",
    r"bleeding<2> (wont stop|badly|heavily|out|to death)",
    r"need (an ambulance|the police)",
    r"(waiting for|called|calling) (the|an) ambulance",
)

VIOLENCE: Final = (
    r"<person>( always| often| keeps| still| just| sometimes)? <hit> (me|us)<sport>",
    r"(beat|beats|beating|beaten) (me up|my (mother|mom|mum|sister|brother|kids|children)<sport>)",
    r"(pushed|shoved|threw|throws|dragged|pushes|slammed) me<1> (down the stairs|against|to the (floor|ground)|by (my"
    r"|the) hair)",
    r"(threatened|threatens|threatening|threats|swore|said|says|told)<5> (kill|hurt|stab|shoot|murder|beat) (me|us"
    r"|my <family>)"
    r"(?! if i (spoil|spoiled|forget|forgot|break (a|another|the|it)|broke|miss|missed|lose|lost|eat|ate|dont))",
    r"(i|we|me|us|my <family>)<4> at (gunpoint|knifepoint|gun point|knife point)",
    r"death threats?",
    r"(keeps|keep|is|are|been|was|were) threatening (me|us|my <family>)",
    r"(threatens|threatened) (me|us|my <family>)",
    r"<will> (kill|hurt) my <family>",
    r"(hits|beats|slaps|punches|kicks|strangles|chokes) (me|us|my <family>|the kids)<sport>",
    r"(is|was|keeps|he|hes) (beating|hitting|choking|strangling|hurting|abusing) (me|us|her|his wife|the kids"
    r"|my <family>|them again)<sport>",
    r"(grabbed|grabs|grabbing|holds|held) me by (the|my) (throat|neck|hair)",
    r"(hand|hands) (around|on|round) my (throat|neck)",
    r"(am|im|are|trapped|stuck|living) in an abusive",
    r"(dont|do not|not|never) feel safe( at home| in my| with (him|her|my)| here| around|<end>)",
    r"(im|i am|am|we are|is|are|be)<very> in danger<end>",
    r"(afraid|scared|terrified|frightened) of (him|her<end>|my (husband|boyfriend|girlfriend|wife|partner|ex|dad"
    r"|father|stepdad|uncle))",
    r"(he|ex|husband) broke into my (house|home|flat|apartment|room)",
    r"(<person>|car|they)<4> (has|have|keeps|is|was) (been )?following me(?! on)",
    r"(locked|kicked|threw|thrown) (me )?out<6> nowhere",
    r"(got|was|been|being|he|they) (drugged|roofied)",
    r"spiked my drink",
    r"(think|afraid|scared|terrified|sure|know|fear)( that| my| the)<1> <person><1> <will> (kill|hurt|murder) (me|us)",
    r"(think|afraid|scared|terrified|sure|know|fear) <person> <will> (kill|hurt|murder) (me|us)",
    r"(attacked|attacking|threatened|threatening|chased|chasing) (me|us) with (a|his|her|the) <weapon>",
    r"(man|guy|someone|somebody|he|she) with a (<weapon>)<1> (in|outside|at) (the|our|my)",
    r"(im|i am|we are) locked (in|inside)<4> he",
    r"outside my (window|door|house) for",
    r"<person> (tried|tries|is trying|wants) to (kill|strangle|stab|shoot|choke|rape) me",
    r"(afraid|scared|terrified) to go home(?! with)",
    r"not safe (at home|here|in my (own )?(home|house)|with (him|her))",
    r"<person>( is| gets| got| becomes| can be| turns) (violent|abusive)",
    r"(abuses|abused|abusing|molests|molested|molesting|rapes|raped|raping|assaulted) (me|us|my (son|daughter|sister))",
    r"(was|been|being|got|am|im|getting)( sexually| physically)? (raped|molested|abused|assaulted|stalked|trafficked"
    r"|blackmailed)(?! by (a (goose|dog|cat)|mosquitoes))",
    r"(forces|forced|forcing|makes|made) (himself on me|me( to)?"
    r" (have sex|undress|do things|sleep with|touch (him|his|her|herself|them|my ?self|there|private|it<end>)))",
    r"<person> (touches|touched|touching) me<3> (night|nobody|no one|private|where i|inappropriately|was little"
    r"|was a child)",
    r"<person><2> <not> let me (leave|go out|out|go home|see my)",
    r"(holding|keeping|locked|keeps|held|locks) (me|us)<1> (here|in|inside|up|captive|prisoner|hostage)",
    r"(hiding|hide)<6> <person><3> (<weapon>|drunk|angry|violent|will find me)",
    r"(pointed|pulled|held|put|points|holds)<1> <weapon><3> (me|my (head|face|throat|neck))",
    r"(breaking|break|trying to get) (into|in) my (house|home|flat|apartment|room)( right now| now|<end>)",
    r"(<person>|car|im|am)<2> (being followed|following me|follows me|followed me)<4> (scared|afraid|frightened"
    r"|hurt me)",
    r"being followed<end>",
    r"(outside|at) my (door|window|house)<6> (scared|afraid|terrified)",
    r"(scared|afraid|fear|fearing|terrified) for my (life|safety)",
    r"(stalks|stalking) me",
)

DANGEROUS: Final = SUICIDE + PLANS + SELF_HARM + OTHERS_AT_RISK + VIOLENCE
"""A user turn in which one of these is left gets the notice."""


def notice_for(text: str) -> str | None:
    """Return `NOTICE` if one message suggests self-harm or danger, else None. English only; any text is accepted."""
    harmless, dangerous = _searches()
    words = harmless.sub(" . ", _normalised(text))
    return NOTICE if any(pattern.search(words) for pattern in dangerous) else None


def notice_for_conversation(turns: Sequence[str]) -> str | None:
    """Return `notice_for` of the speaker's turns, the first and then every other one.

    Earlier turns count as much as the last: a reply is made from all of them, and what a model says to "yes, I mean it"
    is no better than what it says to the turn before.
    """
    return next(filter(None, map(notice_for, turns[::2])), None)


def _normalised(text: str) -> str:
    """Return the lower-case words of a text with single spaces, without apostrophes and with "." for sentence ends."""
    text = unicodedata.normalize("NFKC", _UNSEEN.sub("", text)).casefold()
    text = _DIGIT_AS_LETTER.sub(lambda digit: _LETTERS[digit[0]], text)
    text = _SENTENCE_END.sub(" . ", text).replace(",", " , ") + " . "
    return " ".join(_REPEATED.sub(r"\1", _NO_WORD.sub(" ", text)).split())


_UNSEEN: Final = re.compile("['\"`\u00b4\u2018\u2019\u201b\u02bc\u2032\u00ad\u200b-\u200f\u2060\ufeff]")
"""Apostrophes in all their forms, and characters that do not show."""

_LETTERS: Final = {"0": "o", "1": "i", "3": "e", "4": "a", "5": "s"}
_DIGIT_AS_LETTER: Final = re.compile(r"(?<=[a-z])[01345](?=[a-z])")
"""As in "k1ll"."""

_SENTENCE_END: Final = re.compile(r"[.!?;:]")
_NO_WORD: Final = re.compile(r"[^a-z0-9.,]")
_REPEATED: Final = re.compile(r"([a-z])\1{2,50}")
"""A letter held down, as in "pleeease"."""

_CAPTURING: Final = re.compile(r"\((?!\?)")
_PART: Final = re.compile(r"<(\d|[a-z_]{2,20})>")


@cache
def _searches() -> tuple[re.Pattern[str], tuple[re.Pattern[str], ...]]:
    """Return the search for all that is harmless and those for what is dangerous, made at the first message."""
    harmless = re.compile("|".join(_compiled(pattern, _NEVER_SKIPPED).pattern for pattern in HARMLESS))
    return harmless, tuple(map(_compiled, DANGEROUS))


def _compiled(pattern: str, never_skipped: str = "") -> re.Pattern[str]:
    """Compile a pattern in the notation above, to match whole words; `never_skipped` guards the words in between."""

    def part(match: re.Match[str]) -> str:
        name = match[1]
        if name.isdigit():
            return rf"(?: (?:{never_skipped}[a-z0-9]{{1,20}}+|,)){{0,{name}}}"
        return _PART.sub(part, _PARTS[name])

    expanded = _PART.sub(part, pattern)
    return re.compile(r"\b(?:" + _CAPTURING.sub("(?:", expanded) + r")(?![a-z0-9])")
