"""The parts of an ELAN annotation file (EAF) as it writes them: media, time slots, tiers, types, vocabularies.

Read as a stream with expat. EAF is defined by a schema, never by a document type, so that a document type (and with it
every entity, the usual way of making a small XML file fill the memory) is refused.

Format: "ELAN Annotation Format", schemas EAFv2.7, EAFv2.8 and EAFv3.0, Max Planck Institute for Psycholinguistics.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote
from xml.parsers import expat

from mien.core.errors import UserError

MAX_BYTES = 256 * 1024 * 1024
"""Larger than a day of speech with every word annotated (2.4 MB hold 8,400 annotations)."""

SUBDIVISION = "Symbolic_Subdivision"
ASSOCIATION = "Symbolic_Association"


@dataclass
class EafAnnotation:
    """One annotation.

    Attributes:
        id: Its id.
        slots: Ids of its time slots; None where its time comes from its parent.
        parent: Id of its parent annotation, where it has no slots.
        previous: Id of the annotation before it under the same parent; empty for the first.
        entry: Id of its entry in the tier's vocabulary, empty where it has none.
        text: Its text.
    """

    id: str
    slots: tuple[str, str] | None
    parent: str = ""
    previous: str = ""
    entry: str = ""
    text: str = ""


@dataclass
class EafTier:
    """One tier, with the id of its linguistic type."""

    name: str
    type_id: str
    annotator: str = ""
    participant: str = ""
    annotations: list[EafAnnotation] = field(default_factory=list)


@dataclass(frozen=True)
class EafMedia:
    """A media file that is annotated.

    Attributes:
        name: Its file name.
        origin_ms: Time of the media file at which the annotations' time begins (`TIME_ORIGIN`), ms.
    """

    name: str
    origin_ms: float = 0.0


@dataclass(frozen=True)
class EafType:
    """A linguistic type: its constraint (`SUBDIVISION`, `ASSOCIATION`, others) and its vocabulary, empty without."""

    constraint: str = ""
    vocabulary: str = ""


@dataclass
class EafDocument:
    """What an EAF file holds.

    Attributes:
        version: Version of the format.
        units: Unit of its times.
        media: Its media files.
        slots: Time by slot in the file's order, in `units`; None where a slot has none.
        num_bad_slots: Slots whose time isn't a number.
        tiers: Its tiers.
        types: Linguistic types by id.
        vocabularies: Values by entry id, by vocabulary.
    """

    version: str = ""
    units: str = "milliseconds"
    media: list[EafMedia] = field(default_factory=list)
    slots: dict[str, float | None] = field(default_factory=dict)
    num_bad_slots: int = 0
    tiers: list[EafTier] = field(default_factory=list)
    types: dict[str, EafType] = field(default_factory=dict)
    vocabularies: dict[str, dict[str, str]] = field(default_factory=dict)


def parse_eaf(path: Path) -> EafDocument:
    """Read the parts of an EAF file.

    Raises:
        UserError: The file can't be read, is too large, isn't well-formed XML, has a document type, or isn't EAF.
    """
    builder = _Builder(path)
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartDoctypeDeclHandler = builder.refuse_doctype
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.characters
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UserError(f"{path.name} is larger than {MAX_BYTES // 2**20} MB; an annotation file isn't. Split it.")
        with path.open("rb") as stream:
            parser.ParseFile(stream)
    except OSError as error:
        raise UserError(f"Can't read {path}: {error.strerror}.") from error
    except (expat.ExpatError, ValueError, LookupError) as error:
        if isinstance(error, UserError):
            raise
        # ValueError and LookupError: an encoding declaration that Python's codecs don't know or that lies.
        raise UserError(
            f"{path.name} isn't a whole ELAN file: {error}. Open it in ELAN and save it again; beside it ELAN keeps "
            "the version before (.001)."
        ) from error
    return builder.document


class _Builder:
    """Puts a document together from the elements of the stream."""

    def __init__(self, path: Path) -> None:
        self.document = EafDocument()
        self._path = path
        self._depth = 0
        self._text: list[str] | None = None
        self._annotation: EafAnnotation | None = None
        self._vocabulary: dict[str, str] = {}
        self._entry = ""

    def refuse_doctype(self, *_: object) -> None:
        """Refuse a document type: EAF has none."""
        raise UserError(
            f"{self._path.name} declares a document type, which ELAN files don't have and which can hide harmful "
            "entities; it isn't read. Open it in ELAN and save it again."
        )

    def start(self, name: str, attributes: dict[str, str]) -> None:
        """Take in the start of an element."""
        self._depth += 1
        if self._depth == 1 and name != "ANNOTATION_DOCUMENT":
            raise UserError(f"{self._path.name} is XML, but not of ELAN: it begins with <{name}>. Give an .eaf file.")
        handle = _STARTS.get(name)
        if handle is not None:
            handle(self, attributes)

    def end(self, name: str) -> None:
        """Take in the end of an element."""
        self._depth -= 1
        text, self._text = self._text, None
        if name == "ANNOTATION_VALUE" and self._annotation is not None:
            self._annotation.text = "".join(text or ())
        elif name in ("CV_ENTRY", "CVE_VALUE") and text is not None:
            # Several languages: the first is the one that ELAN shows by default.
            self._vocabulary.setdefault(self._entry or f"#{len(self._vocabulary)}", "".join(text).strip())

    def characters(self, text: str) -> None:
        """Take in text."""
        if self._text is not None:
            self._text.append(text)

    def _document(self, attributes: dict[str, str]) -> None:
        self.document.version = attributes.get("FORMAT") or attributes.get("VERSION", "")

    def _header(self, attributes: dict[str, str]) -> None:
        self.document.units = attributes.get("TIME_UNITS", "milliseconds")

    def _media(self, attributes: dict[str, str]) -> None:
        url = attributes.get("MEDIA_URL") or attributes.get("RELATIVE_MEDIA_URL", "")
        name = re.split(r"[/\\]", url)[-1]
        # ELAN writes addresses as they are, other programs percent-encoded.
        name = unquote(name) if re.search(r"%[0-9A-Fa-f]{2}", name) else name
        self.document.media.append(EafMedia(name, _number(attributes.get("TIME_ORIGIN", "")) or 0.0))

    def _slot(self, attributes: dict[str, str]) -> None:
        given = attributes.get("TIME_VALUE")
        value = None if given is None else _number(given)
        self.document.num_bad_slots += given is not None and value is None
        self.document.slots[attributes.get("TIME_SLOT_ID", "")] = value

    def _tier(self, attributes: dict[str, str]) -> None:
        self.document.tiers.append(
            EafTier(
                name=attributes.get("TIER_ID", ""),
                type_id=attributes.get("LINGUISTIC_TYPE_REF", ""),
                annotator=attributes.get("ANNOTATOR", ""),
                participant=attributes.get("PARTICIPANT", ""),
            )
        )

    def _alignable(self, attributes: dict[str, str]) -> None:
        slots = (attributes.get("TIME_SLOT_REF1", ""), attributes.get("TIME_SLOT_REF2", ""))
        self._add(EafAnnotation(attributes.get("ANNOTATION_ID", ""), slots, entry=attributes.get("CVE_REF", "")))

    def _referring(self, attributes: dict[str, str]) -> None:
        self._add(
            EafAnnotation(
                attributes.get("ANNOTATION_ID", ""),
                None,
                parent=attributes.get("ANNOTATION_REF", ""),
                previous=attributes.get("PREVIOUS_ANNOTATION", ""),
                entry=attributes.get("CVE_REF", ""),
            )
        )

    def _add(self, annotation: EafAnnotation) -> None:
        self._annotation = annotation
        if self.document.tiers:
            self.document.tiers[-1].annotations.append(annotation)

    def _begin_text(self, _: dict[str, str]) -> None:
        self._text = []

    def _type(self, attributes: dict[str, str]) -> None:
        constraint, vocabulary = attributes.get("CONSTRAINTS", ""), attributes.get("CONTROLLED_VOCABULARY_REF", "")
        self.document.types[attributes.get("LINGUISTIC_TYPE_ID", "")] = EafType(constraint, vocabulary)

    def _begin_vocabulary(self, attributes: dict[str, str]) -> None:
        self._vocabulary = self.document.vocabularies.setdefault(attributes.get("CV_ID", ""), {})
        self._entry = ""

    def _begin_entry(self, attributes: dict[str, str]) -> None:
        self._entry = attributes.get("CVE_ID", "")

    def _old_entry(self, attributes: dict[str, str]) -> None:
        self._begin_entry(attributes)
        self._begin_text(attributes)


_STARTS = {
    "ANNOTATION_DOCUMENT": _Builder._document,
    "HEADER": _Builder._header,
    "MEDIA_DESCRIPTOR": _Builder._media,
    "TIME_SLOT": _Builder._slot,
    "TIER": _Builder._tier,
    "ALIGNABLE_ANNOTATION": _Builder._alignable,
    "REF_ANNOTATION": _Builder._referring,
    "ANNOTATION_VALUE": _Builder._begin_text,
    "LINGUISTIC_TYPE": _Builder._type,
    "CONTROLLED_VOCABULARY": _Builder._begin_vocabulary,
    "CV_ENTRY": _Builder._old_entry,
    "CV_ENTRY_ML": _Builder._begin_entry,
    "CVE_VALUE": _Builder._begin_text,
}


def _number(text: str) -> float | None:
    return float(text) if re.fullmatch(r"\s*-?\d{1,15}(\.\d*)?\s*", text) else None
