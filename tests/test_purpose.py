"""Purposes that say openly what mien refuses, and those that it takes."""

import pytest

from mien.core.purpose import refused_setting

REFUSED = """
case study: screening job applicants; scientific hiring assessment; study of my employees' mood
study of employees at work; hired; schools; emotion at workplaces; teachers; teaching; e-learning; learning analytics
selection of candidates; candidate assessment; personnel selection; interviews with job candidates; screen job-seekers
performance review; Bewerberauswahl; entretien d'embauche; research on monitoring employees who agreed; HR
proctoring of exams; assessing our staff; job interviews; Hiring; research with volunteers: employee monitoring
"""
TAKEN = """
research; usability test of a web shop; research with student volunteers; interview study with participants who agreed
research with recruited volunteers; user experience study of a game; usability study with volunteers among our staff
training of a model of expressions; patients' pain, research with consent; test screening of a film; ad testing
interviews about shopping; demonstration; driver safety
"""


def listed(text: str) -> list[str]:
    return [purpose.strip() for line in text.strip().splitlines() for purpose in line.split("; ")]


@pytest.mark.parametrize("purpose", listed(REFUSED))
def test_refused(purpose):
    assert refused_setting(purpose) is not None


@pytest.mark.parametrize("purpose", listed(TAKEN))
def test_taken(purpose):
    assert refused_setting(purpose) is None
