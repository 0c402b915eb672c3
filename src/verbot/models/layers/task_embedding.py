"""Task embeddings: a mixture of learned vectors for each sentence."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class TaskEmbeddings(nn.Module):
    """The softmax of a linear classifier of the sentence mixes `count` embeddings; the mixture is added to the sentence.

    There are no task labels: the losses of the network train the classifier end to end.
    """

    def __init__(self, count: int, width: int):
        super().__init__()
        self.choose, self.embeddings = nn.Linear(width, count), nn.Parameter(torch.randn(count, width) * 0.5)

    def mixture(self, sentence: Tensor) -> Tensor:
        """Mixture weights of sentences (…, e): (…, count), each row summing to one."""
        return self.choose(sentence).softmax(-1)

    def forward(self, sentence: Tensor) -> Tensor:
        """Sentences (…, e) with their mixtures."""
        return sentence + self.mixture(sentence) @ self.embeddings
