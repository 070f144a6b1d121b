"""What mien is for, what it isn't for, and the purposes that it refuses."""

from __future__ import annotations

import re

from mien.core.errors import RefusedError

INTENDED_USE = (
    "Research and usability studies in which people agreed to be recorded: how alike an expression is to what the "
    "annotations of the training study name so."
)
PROHIBITED_USE = (
    "Inferring what a person feels; decisions about a person in hiring, employment or education; watching people who "
    "didn't agree."
)

_REFUSED = {
    "hiring": r"hir(?:e|es|ing)|recruit\w*|job[ -]?interviews?|applicants?|(?:job|candidate) (?:selection|screening)",
    "employment": r"employ(?:ment|ees?|ers?)|workplace|workers?|staff|human resources|hr|call[ -]?cent(?:er|re)s?",
    "education": r"education\w*|school|classrooms?|pupils?|students?|exam(?:s|inations?)?|proctor\w*|grad(?:es?|ing)",
}
"""Words of each setting in which the EU's AI Act forbids inferring emotions (Regulation 2024/1689, Article 5(1)(f):
the areas of workplace and education institutions)."""

_RESEARCH = re.compile(r"\b(?:research|scientific|studies|study|thesis|experiment)\b", re.IGNORECASE)
"""Research that studies volunteers, students among them, isn't one of these settings."""


def refused_setting(purpose: str) -> str | None:
    """Return the refused setting that a purpose names, None where it names none.

    >>> refused_setting("screening of job applicants"), refused_setting("research with student volunteers")
    ('hiring', None)
    """
    if _RESEARCH.search(purpose):
        return None
    for setting, words in _REFUSED.items():
        if re.search(rf"\b(?:{words})\b", purpose, re.IGNORECASE):
            return setting
    return None


def check_purpose(purpose: str, *, where: str) -> None:
    """Refuse a purpose of hiring, employment or education.

    Args:
        purpose: What the user says; empty says nothing.
        where: Who says it, such as "study.yaml" or "--purpose".

    Raises:
        RefusedError: It is one of the settings in which emotions must not be inferred.
    """
    setting = refused_setting(purpose)
    if setting is not None:
        raise RefusedError(
            [
                f"{where} gives the purpose {purpose!r}. Inferring emotions in {setting} is refused: the EU's AI Act "
                "forbids it (Article 5(1)(f)), and no model of expressions can carry such a decision. Research that "
                "studies volunteers is another matter; say so in the purpose."
            ]
        )
