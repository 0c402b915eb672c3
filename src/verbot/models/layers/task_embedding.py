"""The task of a sentence, as a mixture of learned embeddings."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class TaskEmbeddings(nn.Module):
    """A linear classifier of the sentence mixes `count` embeddings by its softmax; the mixture is added to the sentence.

    No observation says what its task is, so nobody tells the classifier either: it learns from the losses of the network which
    sentences are to have which embeddings.
    """

    def __init__(self, count: int, width: int):
        super().__init__()
        self.choose, self.embeddings = nn.Linear(width, count), nn.Parameter(torch.randn(count, width) * 0.5)

    def mixture(self, sentence: Tensor) -> Tensor:
        """How much of each embedding sentences (…, e) take: (…, count), each row summing to one."""
        return self.choose(sentence).softmax(-1)

    def forward(self, sentence: Tensor) -> Tensor:
        """Sentences (…, e) with their mixtures."""
        return sentence + self.mixture(sentence) @ self.embeddings
