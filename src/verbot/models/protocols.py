"""What only some parts of a network can, each as a protocol that is asked for by `isinstance`.

A part has such an ability by having its methods and attributes; nothing is registered. `fit` and `grow` belong to the class
(static methods), so the class is what is asked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from verbot.spec import FloatArray

if TYPE_CHECKING:  # configurations ask for protocols without torch
    from torch import Tensor

    from verbot.models.action_space import ActionReadout
    from verbot.models.tokens import TokenGroup

Options = Mapping[str, Any]


@runtime_checkable
class FitsInstructions(Protocol):
    """A class of encoders that takes something from the training instructions before it is built."""

    @staticmethod
    def fit(options: Options, instructions: Sequence[str], /) -> Options: ...


@runtime_checkable
class FitsActions(Protocol):
    """A class of heads that takes something from the training actions (n, k, a) before it is built, e.g. the edges of bins."""

    @staticmethod
    def fit(options: Options, chunks: FloatArray, /) -> Options: ...


@runtime_checkable
class GrowsVocabulary(Protocol):
    """A class of language encoders whose vocabulary can take new words."""

    @staticmethod
    def grow(options: Options, instructions: Sequence[str], /) -> Options: ...


@runtime_checkable
class AnswersQueries(Protocol):
    """A vision encoder for which many sentences of one image cost little."""

    def ask_many(
        self, images: Tensor, mask: Tensor, sentence: Tensor, questions: Tensor, rows: Tensor
    ) -> tuple[list[TokenGroup], TokenGroup]:
        """The groups, and the taught heatmaps alone for sentences (q, e) about images `rows` (q,)."""
        ...


@runtime_checkable
class SeesBeforeWords(Protocol):
    """A vision encoder whose features do not depend on the sentence, so that they can be computed once and kept."""

    def features(self, images: Tensor) -> Tensor:
        """(…, n, d) of images (…, v, 3, h, w). Raises `ConfigError` where its options make them depend on the sentence."""
        ...

    def groups(self, features: Tensor, mask: Tensor, sentence: Tensor) -> list[TokenGroup]: ...

    def answer(
        self, features: Tensor, mask: Tensor, sentence: Tensor, questions: Tensor, rows: Tensor
    ) -> tuple[list[TokenGroup], TokenGroup]: ...


@runtime_checkable
class CacheableFeatures(Protocol):
    """A vision encoder that may be frozen, so that its features of a dataset can be kept on the disk."""

    key: str  # names the weights

    @property
    def cacheable(self) -> bool:
        """Whether it is frozen and sees without words."""
        ...


@runtime_checkable
class GivesLayers(Protocol):
    """A fusion whose fused tokens come with `TokenGroup.layers`."""

    gives_layers: int  # 0 for none


@runtime_checkable
class ReadsLayers(Protocol):
    """A head that can read the fusion layer by layer."""

    reads_layers: int  # 0 where it reads the last alone


@runtime_checkable
class KeepsFrames(Protocol):
    """A memory that keeps a number of the last frames."""

    frames: int


@runtime_checkable
class HasReadout(Protocol):
    """A head whose outputs are read component by component, so that they can be parameters of a distribution."""

    readout: ActionReadout


@runtime_checkable
class TaskClassifier(Protocol):
    """A head that has parts of its own for each task, and tells tasks apart. Its class is recognized by `classify` too."""

    tasks: tuple[str, ...]

    def classify(self, fused: TokenGroup) -> Tensor:
        """How likely each task is, (b, tasks), as logits."""
        ...


@runtime_checkable
class ClassifiesTasks(Protocol):
    """A class of heads with `TaskClassifier.classify`."""

    def classify(self, fused: TokenGroup) -> Tensor: ...
