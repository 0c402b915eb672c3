"""Optional abilities of network parts, each as a protocol that is checked with `isinstance`.

A part has an ability if it has the methods and attributes; nothing is registered. `fit` and `grow` are static methods, so the
class is checked, not an instance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from verbot.spec import Component, FloatArray

if TYPE_CHECKING:  # configurations use these protocols without torch
    from torch import Tensor, nn

    from verbot.models.action_space import ActionReadout
    from verbot.models.exported_text import ExportedText
    from verbot.models.tokens import Batch, TextBatch, TokenGroup
    from verbot.models.trunks.architecture import DecoderConfig

Options = Mapping[str, Any]


@runtime_checkable
class FitsInstructions(Protocol):
    """A class of encoders whose options are fitted to the training instructions before it is built."""

    @staticmethod
    def fit(options: Options, instructions: Sequence[str], /) -> Options: ...


@runtime_checkable
class FitsActions(Protocol):
    """A class of heads whose options are fitted to the training actions (n, k, a) before it is built, e.g. the edges of bins."""

    @staticmethod
    def fit(options: Options, chunks: FloatArray, /) -> Options: ...


@runtime_checkable
class KnowsRanges(Protocol):
    """A class of heads with options that follow from the kinds of the action's components, before it is fitted."""

    @staticmethod
    def known(options: Options, action: tuple[Component, ...], /) -> Options: ...


@runtime_checkable
class GrowsVocabulary(Protocol):
    """A class of language encoders whose vocabulary can be extended."""

    @staticmethod
    def grow(options: Options, instructions: Sequence[str], /) -> Options: ...


@runtime_checkable
class CountsUnreadTokens(Protocol):
    """A pretrained language encoder, or a backbone with one, that finds text in a language which it was not trained on."""

    def unread_tokens(self, texts: Sequence[str]) -> tuple[int, int]:
        """How many tokens of these texts say nothing to it, and how many there are."""
        ...


@runtime_checkable
class LimitsTokens(Protocol):
    """A language encoder that knows how many tokens of an instruction it reads at most."""

    def most_tokens(self) -> int: ...


@runtime_checkable
class ExportsText(Protocol):
    """A language encoder whose instructions can be read without torch, so that its policy can be exported."""

    def exported_text(self) -> ExportedText: ...


@runtime_checkable
class NeedsSideMultiple(Protocol):
    """A class of encoders of images whose sides must be multiples of a number."""

    @staticmethod
    def side_multiple(options: Options, /) -> int: ...


@runtime_checkable
class AnswersQueries(Protocol):
    """A vision encoder that encodes an image once for many sentences."""

    def encode_with_queries(
        self, images: Tensor, mask: Tensor, sentence: Tensor, queries: Tensor, rows: Tensor
    ) -> tuple[list[TokenGroup], TokenGroup]:
        """The token groups, and for queries (q, e) about images `rows` (q,) the supervised keypoint tokens only."""
        ...


@runtime_checkable
class InstructionFreeFeatures(Protocol):
    """A vision encoder with features that do not depend on the sentence, so that they can be computed once and cached."""

    def features(self, images: Tensor) -> Tensor:
        """(…, n, d) of images (…, v, 3, h, w). Raises `ConfigError` if its options make them depend on the sentence."""
        ...

    def groups(self, features: Tensor, mask: Tensor, sentence: Tensor) -> list[TokenGroup]: ...

    def answer(
        self, features: Tensor, mask: Tensor, sentence: Tensor, queries: Tensor, rows: Tensor
    ) -> tuple[list[TokenGroup], TokenGroup]: ...


@runtime_checkable
class CacheableFeatures(Protocol):
    """A vision encoder that may be frozen, so that its features of a dataset can be cached on disk."""

    key: str  # identifies the weights

    @property
    def cacheable(self) -> bool:
        """Whether it is frozen and does not depend on the instruction."""
        ...


@runtime_checkable
class EncodesPairs(Protocol):
    """A backbone that encodes sentences alone, and images for any sentence, so that both can be compared."""

    def sentence_embeddings(self, text: TextBatch) -> Tensor:
        """The sentence embeddings (n, e) of texts."""
        ...

    def encode_latest(self, batch: Batch, sentence: Tensor) -> TokenGroup:
        """All vision tokens of the latest images (b, n, e), conditioned on sentences (b, e)."""
        ...

    def encode_images(
        self, batch: Batch, sentence: Tensor, queries: tuple[Tensor, Tensor] | None = None
    ) -> tuple[list[TokenGroup], TokenGroup | None]:
        """The vision tokens of all frames, and the keypoint tokens for sentences (q, e) about the latest images of rows (q,)."""
        ...


@runtime_checkable
class SeparatesPerception(Protocol):
    """A backbone whose perception can be trained before its actions, and can be frozen afterwards."""

    @property
    def has_instruction_free_features(self) -> bool:
        """Whether `image_features` is available."""
        ...

    def image_features(self, images: Tensor) -> Tensor:
        """`Batch.features` of images (…, v, 3, h, w)."""
        ...

    def perception_modules(self) -> tuple[nn.Module, ...]:
        """The modules that are trained by objectives on features before the fusion."""
        ...


@runtime_checkable
class ExposesAttention(Protocol):
    """A backbone whose attention over words and image tokens can be recorded."""

    def attention_modules(self) -> tuple[nn.Module, nn.Module, nn.Module]:
        """The language encoder, the pool of the sentence, and the fusion."""
        ...


@runtime_checkable
class InitializesLast(Protocol):
    """A backbone with weights that are initialized after all others, so that a seed gives the same network as in version 0.1."""

    def initialize_last(self) -> None: ...


@runtime_checkable
class ReadsAhead(Protocol):
    """A backbone that reads `Batch.ahead`, and computes features for another such state without encoding the images again."""

    def again(self, features: Any, batch: Batch) -> Any: ...


@runtime_checkable
class GivesLayers(Protocol):
    """A fusion, or a backbone, whose tokens have `TokenGroup.layers`."""

    gives_layers: int  # 0 for none


@runtime_checkable
class HoldsLayers(Protocol):
    """A module with repeated layers that are not among its modules, such as those of a frozen model that is not saved."""

    def held_layers(self) -> Sequence[nn.Module]: ...


@runtime_checkable
class GivesKeysValues(Protocol):
    """A backbone whose fused tokens have `TokenGroup.cache`, of a language trunk of this architecture."""

    keys_of: DecoderConfig | None  # None if they have not


@runtime_checkable
class ReadsLayers(Protocol):
    """A head that can read the fusion layer by layer."""

    reads_layers: int  # 0 if it reads only the last


@runtime_checkable
class KeepsFrames(Protocol):
    """A memory that stores the last frames."""

    frames: int


@runtime_checkable
class HasReadout(Protocol):
    """A head with one output per action component, which can be the parameters of a distribution."""

    readout: ActionReadout


@runtime_checkable
class TaskClassifier(Protocol):
    """A head with one module per task and a task classifier."""

    tasks: tuple[str, ...]

    def classify(self, fused: TokenGroup) -> Tensor:
        """Logits of the tasks, (b, tasks)."""
        ...


@runtime_checkable
class ClassifiesTasks(Protocol):
    """A class of heads with `TaskClassifier.classify`."""

    def classify(self, fused: TokenGroup) -> Tensor: ...
