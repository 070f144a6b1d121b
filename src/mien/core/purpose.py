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

_ACTIVITIES = {
    "hiring": (
        r"hir(?:e|es|ed|ing)|recruit(?:ing|ment|ers?)|applicants?|job[ -]?(?:seek|appl|candidat|interview)\w*"
        r"|(?:candidates?|personnel|applicants?) (?:selection|screening|assessment|evaluation|ranking|interviews?)"
        r"|(?:select|screen|assess|rank|evaluat)\w*(?: of)?(?: \w+)? (?:candidates?|personnel)"
        r"|interviews? (?:with|of) (?:job )?candidates?"
        r"|bewerb\w*|vorstellungsgespr\w*|personalauswahl|embauche\w*|recrutement|contrataci[oó]n"
        r"|selecci[oó]n de personal"
    ),
    "employment": (
        r"(?:employee|staff|worker|workforce|performance|productivity) (?:monitor|review|apprais|evaluat|assess)\w*"
        r"|(?:monitor|apprais|evaluat|assess)\w*(?: of)?(?: \w+)? (?:employees?|staff|workers?|workforce)"
        r"|human resources|hr|mitarbeiter(?:überwachung|kontrolle)"
    ),
    "education": (
        r"exam(?:s|inations?)?|proctor\w*|grad(?:es?|ing)|learning analytics"
        r"|(?:student|pupil|learner)s? (?:monitor|evaluat|assess|engagement|attention)\w*"
        r"|(?:monitor|evaluat|assess)\w*(?: of)?(?: \w+)? (?:students?|pupils?|learners?)"
    ),
}
"""What is done in each setting in which the EU's AI Act forbids inferring emotions (Regulation 2024/1689, Article
5(1)(f): the areas of workplace and education institutions). To call it research makes it nothing else."""

_PEOPLE = {
    "hiring": r"candidates?|recruits?",
    "employment": (
        r"employ(?:ment|ees?|ers?)|workplaces?|work ?force|at work|workers?|staff|personnel|call[ -]?cent(?:er|re)s?"
        r"|besch[äa]ftigte\w*|mitarbeiter\w*|arbeitsplatz|salari[ée]s?|empleados?"
    ),
    "education": (
        r"education\w*|schools?|classrooms?|pupils?|students?|teach\w*|e-?learning|learners?|lectures?"
        r"|university courses?|sch[üu]ler\w*|schulen?|unterricht|[ée]l[èe]ves?|[ée]coles?|alumnos?|escuelas?"
    ),
}
"""Who and where: volunteers of a research study may be of them."""

_CASE_STUDY = re.compile(r"\b(?:business )?case stud(?:y|ies)\b", re.IGNORECASE)
_RESEARCH = re.compile(r"\b(?:research\w*|scientific|stud(?:y|ies)|thesis|experiments?)\b", re.IGNORECASE)
_VOLUNTEERS = re.compile(r"\b(?:volunt\w+|participants|consent\w*|agreed|subjects)\b", re.IGNORECASE)


def refused_setting(purpose: str) -> str | None:
    """Return the refused setting that a purpose names, None where it names none.

    A list of words, most of them English: it stops who says openly what for, and nobody else.

    >>> refused_setting("screening of job applicants"), refused_setting("research with student volunteers")
    ('hiring', None)
    """
    is_research = bool(_RESEARCH.search(_CASE_STUDY.sub("", purpose)) and _VOLUNTEERS.search(purpose))
    for settings in (_ACTIVITIES,) if is_research else (_ACTIVITIES, _PEOPLE):
        for setting, words in settings.items():
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
                "studies volunteers is another matter; say so in the purpose ('research with volunteers, ...')."
            ]
        )
