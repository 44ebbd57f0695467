"""How a folder becomes a cohort: its layout, and what the user knows better than the layout."""

from __future__ import annotations

import dataclasses
import os
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from delineate.core import catalog
from delineate.core.case import Case, Geometry, Reading
from delineate.core.errors import ConfigError, LayoutError
from delineate.core.progress import Say, silent
from delineate.data import _renamed, excluded, site_key
from delineate.data.cohort import Cohort
from delineate.data.layouts import _lists
from delineate.data.layouts._listing import OWN_SUBJECT, Listing
from delineate.data.layouts._recognise import FOLLOW, glimpse, headline, links, recognise


@dataclass(frozen=True)
class Opening:
    """How a cohort is opened; every verb that opens one takes these and passes them on whole.

    Args:
        layout: Name of a layout; by default the most specific that recognises the folder.
        subject_pattern: Regular expression whose group 1, found in a case id, is the subject.
        class_column: The class of a case is this column of the data's table, not the layout's.
        geometry: What places NIfTI files whose header leaves a choice, see ``core.case.Reading``.
        exclude: List of cases to leave out: one id a line, and why after ``#``.
        observer: Of several label files of an image, the one with this in its name.
        site_key: File of the key that patients are marked with, see ``data.site_key``.
        ignore_label: Value in label files of voxels that nobody has annotated.
    """

    layout: str | None = None
    subject_pattern: str | None = None
    class_column: str | None = None
    geometry: Geometry | None = None
    exclude: Path | None = None
    observer: str | None = None
    site_key: Path | None = None
    ignore_label: int | None = None

    @property
    def reading(self) -> Reading:
        """How the files of a case are read."""
        return Reading(self.geometry)

    def non_default(self) -> Iterator[tuple[str, Any]]:
        """Name and value of whatever is not left to its default."""
        for setting in dataclasses.fields(self):
            value = getattr(self, setting.name)
            if value != setting.default:
                yield setting.name, value

    def without_labels(self) -> Opening:
        """The same for scans alone, of which labels and classes are not asked."""
        return dataclasses.replace(self, class_column=None, ignore_label=None)

    def cohort(
        self,
        root: str | os.PathLike[str],
        say: Say = silent,
        away_from: Path | None = None,
    ) -> Cohort:
        """List a folder, a table (CSV, TSV) or a single scan.

        Args:
            root: Folder, table or scan.
            say: Told if a key of the site was made.
            away_from: Folder of the results, which may be passed on: no key of the site is made in
                it, or taken from it.

        Raises:
            LayoutError: Nothing there, no layout fits, or the folder lists no case.
            ConfigError: Unknown layout or column, a pattern that is not one, or a list that names
                a case which is not there.
        """
        root = Path(root).resolve()
        if not root.exists():
            raise LayoutError(
                "expected a folder, a table or a scan, got nothing",
                where=root,
                fix="check the path",
                code="no-folder",
            )
        strays = links(root)
        name = self.layout or recognise(root, strays)
        listing = self._list(name, root, strays)
        unpaired = (*listing.unpaired, *strays)
        base = root.parent if root.is_file() else root
        cases, listed = _lists.declared(root, listing.cases)
        others = _lists.not_read(root) if name != "table" else []
        notes = (*listing.notes, *listed, *others)
        if strays:
            notes = (*notes, f"{len(strays)} links were not followed, see unpaired; {FOLLOW}")
        cases = tuple(map(_composed, cases))
        if listing.patients and self.subject_pattern is None:
            key = site_key.find(base, self.site_key, away_from)
            if key.remark:
                say(key.remark)
            cases = _renamed.patients(cases, listing.patients, key)
            notes = (*notes, f"subjects are called by marks of the Patient ID (key {key.id})")
        if self.subject_pattern is not None:
            cases = _renamed.subjects(cases, self.subject_pattern)
            notes = (
                *(note for note in notes if note != OWN_SUBJECT),
                f"subjects are taken from case ids by {self.subject_pattern!r}",
            )
        classes = tuple(dict.fromkeys(map(_nfc, listing.schema.classes)))
        schema = dataclasses.replace(listing.schema, classes=classes)
        if self.class_column is not None:
            cases, schema = _renamed.classes(cases, schema, self.class_column, root)
        if self.ignore_label is not None:
            schema = schema.ignoring(self.ignore_label)
            notes = (*notes, f"voxels of value {self.ignore_label} are not annotated")
        if self.geometry is not None:
            cases = tuple(dataclasses.replace(case, reading=self.reading) for case in cases)
            notes = (*notes, f"where NIfTI headers leave a choice, the {self.geometry} is followed")
        cohort = Cohort(
            root=base,
            layout=name,
            cases=cases,
            schema=schema,
            notes=notes,
            modalities=dict(listing.modalities),
            unpaired=unpaired,
        )
        if self.exclude is None:
            return cohort
        return cohort.without(excluded.read(self.exclude, [case.id for case in cases]))

    def _list(self, name: str, root: Path, strays: Sequence[str]) -> Listing:
        """What a layout lists; there is a case at least."""
        module = catalog.load("data.layouts", name)
        # A layout that gives way to others when it is looked for may take more when it is named.
        if self.layout and not getattr(module, "fits", module.recognise)(root):
            raise LayoutError(
                f"expected the layout {name!r}: {headline(name)}; got {glimpse(root)}",
                where=root,
                fix="leave the layout out to have it recognised",
                code="layout-mismatch",
            )
        observers = getattr(module, "OBSERVERS", False)
        if self.observer is not None and not observers:
            raise ConfigError(
                f"expected no observer in the layout {name!r}, which has one label file a case; "
                f"got {self.observer!r}",
                where=root,
                fix="leave the observer out, or list the label files you want in a table",
                code="observer-unknown",
            )
        try:
            listing: Listing = module.cases(
                root, **({"observer": self.observer} if observers else {})
            )
        except LayoutError as error:
            if strays:
                error.fix = f"{error.fix}; {FOLLOW}" if error.fix else FOLLOW
            raise
        if not listing.cases:
            not_listed = [*listing.unpaired, *strays][:4] + [FOLLOW] * bool(strays)
            raise LayoutError(
                f"the layout {name!r} lists no case; got {glimpse(root)}",
                where=root,
                fix="; ".join(not_listed) or "check the folder",
                code="no-cases",
            )
        return listing


def _composed(case: Case) -> Case:
    """A case whose names are the same however a disk or a table spells their accents."""
    return dataclasses.replace(
        case,
        id=_nfc(case.id),
        subject=_nfc(case.subject),
        class_name=_nfc(case.class_name) if case.class_name else None,
        site=_nfc(case.site) if case.site else None,
    )


def _nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)
