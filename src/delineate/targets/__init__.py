"""What can be asked of a model, one file a target: this is the contract that each of them keeps.

A member of this room is a file with ``Config``, a frozen dataclass of the settings that are its
own (``NoSettings`` where there are none), and ``build(config) -> Target``. Its name is the file's.
It may have ``TRIED``, settings with which tests and ``delineate check`` try it. What two members
share lies in files that begin with ``_``; targets of anybody's own may import these too.

A ``Target`` answers for the whole way of a model: which cases teach and judge it, what it is fed
with, what is watched and chosen on validation cases, what a prediction is and how it is written,
how predictions are scored and by which rows runs are compared. Nothing outside this room asks
which target it has before it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from delineate.targets._finding import (
    asked_by,
    choose,
    make,
    of,
    of_predictions,
    of_summary,
    possible,
    require_own_settings,
    results,
    score_predictions,
    stored,
    with_own,
)

if TYPE_CHECKING:
    from torch import nn

    from delineate.core.case import Batch, Case, Prediction
    from delineate.core.image import Image
    from delineate.core.progress import Progress, Say
    from delineate.core.schema import Schema
    from delineate.data.cache import PreparedCase
    from delineate.data.cohort import Cohort
    from delineate.data.opening import Opening
    from delineate.data.outputs import CaseOutputs
    from delineate.engine.budget import Candidate
    from delineate.inference.ensemble import AnySession
    from delineate.inference.options import Options as Predicting
    from delineate.inference.sliding_window import Tick
    from delineate.preprocess.presets import Preparation
    from delineate.reports._run_folder import Results, RunFolder
    from delineate.scoring.options import Options
    from delineate.settings import RunConfig
    from delineate.targets._rows import Row

__all__ = [
    "Answers",
    "Comparison",
    "Contents",
    "Feed",
    "Figure",
    "Judged",
    "Learning",
    "NoSettings",
    "Target",
    "Terms",
    "Usable",
    "asked_by",
    "choose",
    "make",
    "of",
    "of_predictions",
    "of_summary",
    "possible",
    "require_own_settings",
    "results",
    "score_predictions",
    "stored",
    "with_own",
]  # fmt: skip
#: Cases left out that are told by name.
_NAMED = 8


@dataclass(frozen=True)
class NoSettings:
    """Nothing to set."""


@dataclass(frozen=True)
class Usable:
    """The cases of a cohort, as a target sees them.

    Args:
        labelled: Those that a model can learn from and be judged on.
        unlabelled: Id -> what the case lacks ("label map"), of those whose images are whole.
        left_out: Id -> what the case lacks, of those that cannot be used at all.
    """

    labelled: Cohort
    unlabelled: Mapping[str, str] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)

    @property
    def ids(self) -> list[str]:
        """Of all cases that can be used for anything."""
        return [*(case.id for case in self.labelled.cases), *self.unlabelled]

    def sentences(self, unlabelled_too: bool = True) -> list[str]:
        """Which cases are left out, and for want of what.

        Args:
            unlabelled_too: Those without labels are not used either.
        """
        not_used = {**self.left_out, **(self.unlabelled if unlabelled_too else {})}
        of = len(self.labelled) + len(self.unlabelled) + len(self.left_out)
        sentences = []
        for lacking in dict.fromkeys(not_used.values()):
            names = [name for name, lack in not_used.items() if lack == lacking]
            examples = ", ".join(names[:_NAMED]) + (" …" if len(names) > _NAMED else "")
            sentences.append(
                f"{len(names)} of {of} cases left out for want of a {lacking}: {examples}"
            )
        return sentences


@dataclass(frozen=True)
class Figure:
    """A figure with its 95 % interval; None where it is not known."""

    value: float | None
    low: float | None
    high: float | None

    @staticmethod
    def of(entry: Mapping[str, Any], key: str) -> Figure:
        """From an entry of ``summary.json``, whose value is called ``key``."""
        return Figure(entry.get(key), entry.get("ci_low"), entry.get("ci_high"))


@dataclass(frozen=True)
class Contents:
    """What there is to be seen in cases, so that a split can give each part some of it.

    Args:
        by_case: Case id -> names of what it shows.
        declared: What the data promise; none of it in any training case is told.
        each: What one of them is called ("class"), where a run is refused that is not shown all.
    """

    by_case: Mapping[str, frozenset[str]] = field(default_factory=dict)
    declared: tuple[str, ...] = ()
    each: str | None = None


class Feed(Protocol):
    """A source of batches that also knows the shape of what it gives."""

    @property
    def patch(self) -> tuple[int, ...]:
        """Spatial size."""

    @property
    def cases(self) -> Sequence[PreparedCase]:
        """What it draws from."""

    def __call__(self, step: int, micro: int, split: int) -> Batch:
        """See ``delineate.engine.prefetch.Batches``."""


class Learning(Protocol):
    """A target as one run learns it."""

    @property
    def schema(self) -> Schema:
        """Labels, regions and classes of the cohort."""

    @property
    def ndim(self) -> int:
        """Spatial dimensions that the network sees, 2 or 3."""

    @property
    def channels(self) -> Sequence[str]:
        """Names of the prepared channels that the network sees, of one slice each."""

    @property
    def neighbours(self) -> int:
        """Slices to each side that join as channels."""

    @property
    def outputs(self) -> Sequence[str]:
        """Names of the channels of the network's output."""

    @property
    def spacing_mm(self) -> tuple[float, ...]:
        """Of the axes that the network sees; () where it is not known."""

    @property
    def whole(self) -> bool:
        """Whether a patch shows an image, or a slice, whole."""

    @property
    def derived(self) -> Mapping[str, Any]:
        """Settings of the network that follow from the data, where it has such."""

    def candidates(self, cases: Sequence[PreparedCase]) -> list[Candidate]:
        """What is worth measuring, from modest to ambitious."""

    def smaller(self, first: Candidate, cases: Sequence[PreparedCase]) -> list[Candidate]:
        """What to take where hardly a step of the first candidate fits."""

    def patch(self, cases: Sequence[PreparedCase], voxels: Mapping[int, int]) -> tuple[int, ...]:
        """Spatial size of a patch of about so many ``voxels``, by number of dimensions."""

    def windows(self, case: PreparedCase, patch: Sequence[int]) -> int:
        """Patches that the prediction of a case takes."""

    def feed(
        self,
        candidate: Candidate,
        cases: Sequence[PreparedCase],
        unlabelled: Sequence[PreparedCase] = (),
    ) -> Feed:
        """What the loop is fed with, from one pool or from two."""

    def document(self, feed: Any) -> dict[str, Any]:
        """What the model file must hold for its predictions: ``input``, and what else there is."""

    def validate(
        self,
        network: nn.Module,
        cases: Sequence[PreparedCase],
        feed: Any,
        device: Any,
        tick: Tick | None = None,
    ) -> dict[str, float]:
        """Figures of validation cases for the log; none where nothing can be told.

        Args:
            network: In ``eval``, on ``device``.
            cases: Of the validation part.
            feed: As training has it.
            device: Where it is computed.
            tick: Called now and then, and may raise.
        """

    def select(
        self,
        network: nn.Module,
        cases: Sequence[PreparedCase],
        feed: Any,
        device: Any,
        tick: Tick | None = None,
    ) -> dict[str, Any]:
        """What of the model file is chosen on validation cases; without cases its defaults.

        See ``validate``.
        """


@dataclass(frozen=True)
class Judged:
    """What the runs of a benchmark learn and are judged on.

    Args:
        cohort: The cases.
        notes: What a person should know of them.
        as_target: The target under which runs learn them from tables, one for every condition and
            run; None: every run holds out one of the folds of the data themselves.
    """

    cohort: Cohort
    notes: tuple[str, ...] = ()
    as_target: str | None = None


@dataclass(frozen=True)
class Terms:
    """On what terms runs were compared.

    Args:
        runs: Of every arm.
        alike: All arms had the same settings.
        splits: Kinds of splits among the conditions.
    """

    runs: int
    alike: bool
    splits: frozenset[str]


class Comparison(Protocol):
    """By what runs are compared in a benchmark; rows are plain data, see ``_rows``."""

    @property
    def noun(self) -> str:
        """What is judged ("labelled cases")."""

    @property
    def metrics(self) -> Sequence[str] | None:
        """Metrics that there are; None where ``summary`` knows them by itself."""

    @property
    def phantom(self) -> Mapping[str, Any]:
        """How synthetic data are made where there are no others, see ``delineate.phantom``."""

    def judged(self, cohort: Cohort, level: str) -> Judged:
        """What of a cohort is learned and judged.

        Args:
            cohort: As it lies there.
            level: ``slice``: stacks may be taken apart; ``case``: they are judged whole.
        """

    def rows(self, table: Iterable[Mapping[str, str]], metrics: Sequence[str]) -> Sequence[Row]:
        """From the lines of a run's ``cases.csv`` to rows.

        Rows have ``case``, ``subject``, every metric, and ``region`` where several structures are
        told apart. What begins with ``_`` is for ``summary`` alone.
        """

    def summary(self, rows: Sequence[Row], metrics: Sequence[str]) -> list[dict[str, Any]]:
        """Figures of every ``arm``, ``region`` and metric, and of an answer that needs no model."""

    def paired(
        self, rows: Sequence[Row], metrics: Sequence[str], condition: str
    ) -> tuple[Sequence[Row], Sequence[str]]:
        """Rows and metrics for paired differences between arms, under the first condition."""

    def notes(self, rows: Sequence[Row], terms: Terms) -> list[str]:
        """What a reader must know to read the table."""


class Answers(Protocol):
    """What models of a target say of images, and how that is written."""

    @property
    def done(self) -> str:
        """What has become of a case ("outlined")."""

    def require(self, session: AnySession, options: Predicting) -> None:
        """Refuse options that these models cannot follow.

        Raises:
            ConfigError: With the options that have to go.
        """

    def about(self, session: AnySession) -> dict[str, Any]:
        """What ``predictions.json`` says of all cases, beside what it always says."""

    def merged(self, index: Mapping[str, Any]) -> dict[str, Any]:
        """The same, of predictions that several models made, one a case."""

    def notes(self, session: AnySession) -> list[str]:
        """What should be known of several models that predict together."""

    def settings(self, session: AnySession, options: Predicting) -> dict[str, Any]:
        """What of the options is up to the models, as it is followed."""

    def outputs(self, cases: Sequence[Case], out: Path, options: Predicting) -> list[CaseOutputs]:
        """The files that each case will be written to."""

    def predict(
        self, session: AnySession, image: Image, options: Predicting, progress: Tick | None
    ) -> Prediction:
        """What the models say of one image.

        Args:
            session: Of one model or of several.
            image: ``(C, *S)`` as read from its files, channels in the models' order.
            options: How it is predicted.
            progress: Told windows done and windows in all; it may raise.
        """

    def write(self, outputs: CaseOutputs, prediction: Prediction, out: Path) -> dict[str, Any]:
        """Write one prediction; what ``predictions.json`` says of it: its ``files``, and more."""

    def line(self, record: Mapping[str, Any]) -> str:
        """What is said of a finished case, from what ``predictions.json`` has of it."""

    def finish(self, index: Mapping[str, Any], out: Path) -> None:
        """Write what all cases have in common, such as a table."""


class Target(Protocol):
    """What is asked of a model."""

    @property
    def kind(self) -> str:
        """``KIND`` of the networks that can give it."""

    @property
    def trains(self) -> str:
        """What a method must list in ``TRAINS``; mostly the same as ``kind``."""

    @property
    def gives(self) -> str | None:
        """The channel of the data that the model is to give instead of being shown it."""

    @property
    def method(self) -> str:
        """The method where nobody names one."""

    @property
    def network(self) -> str:
        """The network where nobody names one."""

    @property
    def settings(self) -> tuple[str, ...]:
        """Settings of a run that mean something here, and not for every target."""

    @property
    def automatic(self) -> int | None:
        """Where nobody names a target, the lowest that ``suits`` is taken; None: by name alone."""

    def suits(self, cohort: Cohort) -> bool:
        """Whether the cohort has what it learns, where nobody names a target."""

    def asked_by(self, opening: Opening) -> str:
        """What of an opening asks for this target, in words; empty where nothing does."""

    def usable(self, cohort: Cohort) -> Usable:
        """Which cases are labelled, unlabelled or left out, and why.

        Raises:
            InputError: Too few for a model.
        """

    def sample(self, cohort: Cohort, count: int) -> list[Case]:
        """About so many usable cases to try things on, spread over the cohort."""

    def contents(self, cohort: Cohort, folder: Path, progress: Progress) -> Contents:
        """What usable cases show.

        Args:
            cohort: The labelled ones.
            folder: Where it may be remembered.
            progress: Shows how far the reading of files is.
        """

    def learning(self, chosen: RunConfig, cohort: Cohort, preparation: Preparation) -> Learning:
        """What a run needs to learn it.

        Args:
            chosen: Settings of the run, method and network named.
            cohort: To learn from.
            preparation: Of its images.
        """

    def rehearse(self, case: Case, cohort: Cohort) -> None:
        """Compute what scoring a case takes, for the time that it takes."""

    @property
    def answers(self) -> Answers:
        """What its models say of images."""

    @property
    def format(self) -> str:
        """What ``summary.json`` of its scores calls itself."""

    def score(
        self,
        predictions: Path,
        labels: Path,
        out: Path,
        opening: Opening,
        options: Options,
        say: Say,
        progress: Progress,
    ) -> dict[str, Any]:
        """Pair predictions with the truth, score them, and write tables, summary and page.

        ``cases.csv`` has rows with ``case`` and ``subject``, which ``comparison`` reads;
        ``summary.json`` calls itself ``format``; the page is ``report.html``.

        Args:
            predictions: Folder of predictions, or one file.
            labels: Data set.
            out: Folder for the results.
            opening: How the data set is opened.
            options: How they are scored.
            say: Told the figures.
            progress: Shows how far the work is.

        Returns:
            The content of ``summary.json``.

        Raises:
            PartialError: Some cases could not be scored; the results of the others are written.
            DelineateError: Whatever leaves nothing to score.
        """

    @property
    def comparison(self) -> Comparison:
        """By what runs are compared in a benchmark."""

    def headline(self, summary: Mapping[str, Any]) -> dict[str, Figure]:
        """The few figures by which runs are told side by side, the most telling first."""

    def results(self, folder: RunFolder) -> Results:
        """What the report of a run shows of its scores, from what lies in its folder."""
