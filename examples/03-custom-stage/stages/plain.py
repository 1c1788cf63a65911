#!/usr/bin/env python3
"""How plainly answers are written."""

import re

import headstart
from headstart import Dataset, Metrics, Responses

VOWELS = re.compile(r"[aeiouy]+")
EMOJI = re.compile("[\U0001f300-\U0001faff\u2600-\u27bf]")


def syllables(word):
    """Groups of vowels, without a silent e: right for most English words."""
    groups = len(VOWELS.findall(word))
    return max(1, groups - (word.endswith("e") and not word.endswith("le")))


@headstart.stage(version=1)
def readability(answers: Responses | Dataset, hard: float = 50.0) -> Metrics:
    """How easy answers are to read, by Flesch's formula for English.

    206.835 - 1.015 words a sentence - 84.6 syllables a word (Flesch 1948). 60 to 70 is plain
    English, below 30 hard to read.

    answers: the answers
    hard: ease below which an answer counts as hard
    """
    eases, emoji = [], 0
    for n, row in enumerate(answers.rows(), start=1):
        text = row["response"]
        words = re.findall(r"[a-z']+", text.lower())
        sentences = [s for s in re.split(r"[.!?]+", text) if s.strip()]
        if words:
            per_word = sum(map(syllables, words)) / len(words)
            eases.append(206.835 - 1.015 * len(words) / len(sentences) - 84.6 * per_word)
        emoji += bool(EMOJI.search(text))
        headstart.progress(n, unit="rows")
    if not eases:
        raise headstart.InputError("no answer has a word in it", help="look at the answers' file")
    headstart.count("answers", len(eases))
    return Metrics(
        ease=sum(eases) / len(eases),
        hard=sum(e < hard for e in eases) / len(eases),
        emoji=emoji / len(eases),
        answers=len(eases),
    )


if __name__ == "__main__":
    headstart.main()
