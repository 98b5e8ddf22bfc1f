"""With which words a request in Latin script begins, where they show the language it is asked in.

In: a request. Out: en, other or None. A question may be about words of another language and have more of them than of
its own: "Traduis : I would like to order a coffee", "Who sang Non, je ne regrette rien?". Its verb or question word is
the asker's. English ones are followed by a small letter: "Who Framed Roger Rabbit" is a title.
"""

from __future__ import annotations

import re
from typing import Final, Literal

# Words that are English too ("comment", "come", "lies", "name", "dove") only beside another of their own language.
_FOREIGN: Final = (
    # German
    r"wer|wen|wem|wie|wann|warum|wieso|weshalb|welche[rsnm]?|wessen|woher|wohin"
    r"|(?:was|wo) (?:ist|sind|bedeute[tn]|heißt|heisst|hat|haben|kann|kostet|steht|zeigt|macht|war|wird|sagt|geht|gibt"
    r"|liegt|siehst|befindet|wurde|muss|soll)"
    r"|(?:lies|name|nenne|zähle?|zeige?|beschreibe?|erkläre?|vergleiche?|übersetze?)"
    r" (?:mir|uns|bitte|alle|de[nrms]|die|das|diese[nrms]?|ins|auf|nach|eine?n?|und)"
    r"|übersetze?(?=:)|(?:kannst|könntest) du|(?:können|könnten) sie|ich (?:möchte|brauche|will|suche)|(?:gib|sag) mir"
    r"|(?:ist|sind) (?:das|dies|es|hier)|gibt es"
    # French
    r"|qui (?:est|a|sont|était|ont)|que (?:dit|veut|signifie|fait|voit|représente)|qu['\u2019]est-ce|quel(?:le)?s?|où"
    r"|combien|pourquoi|est-ce|c['\u2019]est|peux-tu|peut-on|pouvez-vous|pourr(?:iez-vous|ais-tu)"
    r"|comment (?:dit|faire|fonctionne|est|puis|se|s['\u2019]|ça|peut|installer|utiliser|appelle)"
    r"|je (?:veux|voudrais|cherche|suis|ne|peux|dois)|tradui(?:s|sez|re)|lis(?:ez)?|décri(?:s|vez)|explique[rz]?"
    r"|(?:donne|dis|montre|explique)-moi|comptez?|y a-t-il"
    # Spanish
    r"|qué|quién(?:es)?|cuál(?:es)?|cuánt[oa]s?|dónde|cómo|cuándo|por qué|puedes|podrías|que (?:dice|es|significa|hay)"
    r"|traduc(?:e|ir)|traduzca|(?:lee|lea|describe|hay|compara|cuenta) (?:el|la|l[oa]s|est[eao]s?|una?|algun[oa]s?)"
    r"|explica(?:me)?|dime|muéstrame|quiero|es (?:una?|est[eao])"
    # Italian
    r"|che (?:cosa|cos['\u2019]|è)|cos['\u2019]è|cosa|chi (?:è|ha|sono)|(?:dove|come) (?:si|è|sono|posso|funziona)"
    r"|perché|quant[oiae]|qual[ei]|puoi|potresti|traduci|leggi|descrivi|spiega(?:mi)?|dimmi"
    # Portuguese
    r"|o que|quem|qual|quais|onde|quando|como (?:se|é|faço|posso)|por que|você|traduz(?:a|ir)?|leia|descreva"
    # Dutch
    r"|wat (?:is|zijn|staat|betekent)|waar (?:is|zijn|staat|ligt)|wanneer|waarom|hoeveel|welke?"
    r"|hoe (?:veel|laat|heet|kan|werkt)|kun je|kunt u|is d[ia]t een|vertaal|lees|beschrijf"
)
_ENGLISH: Final = (
    r"(?:who|what|where|when|why|which|whose|how|can you|could you|would you|please|tell me|show me|translate)"
)
_OPENER: Final = re.compile(rf"[^\w]*(?:(?P<other>(?i:{_FOREIGN})(?!\w))|(?i:{_ENGLISH})\s+(?=[a-z]))")


def find_opener(request: str) -> Literal["en", "other"] | None:
    """Return the language of the words that a request begins with; None if they show none.

    Args:
        request: without courtesies before it.
    """
    found = _OPENER.match(request)
    if found is None:
        return None
    return "other" if found["other"] else "en"
