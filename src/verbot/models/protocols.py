"""What only some parts of a network can, each as a protocol that is asked for by `isinstance`.

A part has such an ability by having its methods and attributes; nothing is registered. `fit` and `grow` belong to the class
(static methods), so the class is what is asked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from verbot.spec import FloatArray

if TYPE_CHECKING:  # configurations ask for protocols without torch
    from torch import Tensor, nn

    from verbot.models.action_space import Readout
    from verbot.models.tokens import Batch, TextBatch, TokenGroup

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
class ReadsSentences(Protocol):
    """A backbone that encodes sentences alone, and images for any sentence, so that both can be compared."""

    def sentences(self, text: TextBatch) -> Tensor:
        """The sentence vectors (n, e) of texts."""
        ...

    def look(self, batch: Batch, sentence: Tensor) -> TokenGroup:
        """All vision tokens of the latest images (b, n, e), encoded for a sentence (b, e)."""
        ...

    def see(
        self, batch: Batch, sentence: Tensor, asked: tuple[Tensor, Tensor] | None = None
    ) -> tuple[list[TokenGroup], TokenGroup | None]:
        """The vision tokens of all frames, and the keypoint tokens for sentences (q, e) about the latest images of rows (q,)."""
        ...


@runtime_checkable
class WarmsUpPerception(Protocol):
    """A backbone whose perception can be trained before its actions are, and then left as it is."""

    @property
    def sees_before_words(self) -> bool:
        """Whether `image_features` can be computed: without the instruction."""
        ...

    def image_features(self, images: Tensor) -> Tensor:
        """What `Batch.features` holds of images (…, v, 3, h, w)."""
        ...

    def perception(self) -> tuple[nn.Module, ...]:
        """The modules that objectives teach that do not read the fused tokens."""
        ...


@runtime_checkable
class ShowsReading(Protocol):
    """A backbone whose attention can be watched: what each word was read as, and what it looked at."""

    def reading(self) -> tuple[nn.Module, nn.Module, nn.Module]:
        """The language encoder, the pool of the sentence, and the fusion."""
        ...


@runtime_checkable
class DrawsLast(Protocol):
    """A backbone with weights that are drawn after all others of the network, so that a seed makes the networks that it did."""

    def draw_last(self) -> None: ...


@runtime_checkable
class GivesLayers(Protocol):
    """A fusion, or a backbone, whose fused tokens come with `TokenGroup.layers`."""

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

    readout: Readout


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
