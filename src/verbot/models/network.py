"""The whole network: see, be told, feel, fuse, act."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from verbot.errors import ConfigError
from verbot.models.config import NetworkConfig
from verbot.models.encoders.language.tokenizer import drop_words
from verbot.models.layers.transformer import AttentionPool, centered
from verbot.models.objectives.contrastive import compared
from verbot.models.objectives.grasp_state import Grasp
from verbot.models.objectives.keypoint_memory import Recall
from verbot.models.objectives.keypoints import POINTS, keypoint_loss, pointing, supervised
from verbot.models.objectives.queries import joined
from verbot.models.objectives.task_embedding import Tasks
from verbot.models.objectives.value import Value
from verbot.models.registries import (
    Part,
    action_encoders,
    fusions,
    goal_encoders,
    heads,
    language_encoders,
    memories,
    state_encoders,
    vision_encoders,
)  # fmt: skip
from verbot.models.stochastic import StochasticHead, sampled
from verbot.models.tokens import Batch, MemoryState, Prediction, Questions, TextBatch, TokenGroup, join
from verbot.models.validation import check_frames, check_layers, has_fused, make_balance, make_contrast
from verbot.spec import RobotSpec

__all__ = ["NetworkConfig", "Part", "VLANetwork"]


class VLANetwork(nn.Module):
    """Vision, language and action.

    Args:
        config: the parts, after `NetworkConfig.fit`.
        spec: the robot.
    """

    def __init__(self, config: NetworkConfig, spec: RobotSpec):
        super().__init__()
        self.config, sizes = config, config.sizes(spec)
        self.sizes = sizes
        self.vision = vision_encoders.get(config.vision.name)(sizes, **config.vision.options)
        self.language = language_encoders.get(config.language.name)(sizes, **config.language.options)
        pool = AttentionPool(config.width)
        self.sentence = nn.Sequential(pool, nn.LayerNorm(config.width)) if config.sentence_norm else pool
        self.tasks = Tasks(config.tasks, config.width) if config.tasks else None
        self.state = state_encoders.get(config.state.name)(sizes, **config.state.options)
        counts = {kind: n * config.history for kind, n in {**self.vision.counts, **self.state.counts}.items()}
        if config.acted:  # a token for each frame, as of every kind that fusions find frame by frame; all but the latest masked
            counts["acted"] = config.history
        self.fusion = fusions.get(config.fusion.name)(sizes, {**counts, "sentence": 1}, **config.fusion.options)
        self.goal = goal_encoders.get(config.goal.name)(sizes, **config.goal.options) if config.goal else None
        self.acted = action_encoders.get(config.acted.name)(sizes, **config.acted.options) if config.acted else None
        last = self.fusion
        if config.memory:
            last = memories.get(config.memory.name)(sizes, last.width, last.count, **config.memory.options)
            check_frames(config, getattr(last, "frames", 0))
        self.memory = last if config.memory else None
        self.head = heads.get(config.head.name)(sizes, last.width, last.count, **config.head.options)
        check_layers(config, getattr(self.fusion, "gives_layers", 0), getattr(self.head, "reads_layers", 0))
        self.recall = None
        if config.recall_weight:
            if "keypoints" not in self.vision.counts:
                raise ConfigError(f"recall_weight looks again in heatmaps, and {config.vision.name!r} makes none: set it to 0")
            self.recall = Recall(last.width, last.count, sizes.views, config.history)
        self.value = Value(last.width, last.count, config.value_discount) if config.value_weight else None
        self.contrast = make_contrast(config, sizes, sum(self.vision.counts.values()))
        self.grasp = Grasp(last.width, last.count, sizes.state) if config.grasp_weight else None
        self.balance = make_balance(config, self.vision, self.head)
        self.fuses = has_fused(config, self.balance)
        if config.history > 1:  # row t - 1 is the latest frame
            self.times = nn.Parameter(torch.randn(config.history, config.width) * 0.02)

    def forward(self, batch: Batch) -> tuple[TokenGroup, TokenGroup | None]:
        """The fused tokens, and the keypoint tokens (of all frames, the latest last) where the vision encoder makes them."""
        fused, keypoints, _ = self.answer(dataclasses.replace(batch, questions=None))
        return fused, keypoints

    def answer(self, batch: Batch) -> tuple[TokenGroup, TokenGroup | None, TokenGroup | None]:
        """As `forward`, and the keypoint tokens of the questions."""
        seen, words, sentence, answers, _ = self._look(batch, batch.questions)
        return self._fuse(batch, seen, words, sentence), pointing(seen), answers

    def _look(
        self, batch: Batch, questions: Questions | None, own: Tensor | None = None
    ) -> tuple[list[TokenGroup], TokenGroup, TokenGroup, TokenGroup | None, Tensor | None]:
        """What is seen, the words and their sentence; and of the questions the keypoint tokens and the sentences (q, e).

        With all rows as `own`, each picture is asked its own sentence.
        """
        words, sentence = self.read(batch.text, batch)
        told = None if questions is None else self.read(questions.text)[1].tokens[:, 0]
        asking = None if questions is None or told is None else (questions.rows, told)
        if own is not None and self.contrast.attends:
            asking = (own, sentence.tokens[:, 0])
        seen, answers = self.see(batch.images, batch.images_mask, sentence.tokens[:, 0], asking, batch.features)
        return seen, words, sentence, answers, told

    def _fuse(self, batch: Batch, seen: list[TokenGroup], words: TokenGroup, sentence: TokenGroup) -> TokenGroup:
        done = [] if self.acted is None else [self.done(batch)]
        fused: TokenGroup = self.fusion([words, sentence, *seen, self.feel(batch.state, batch.state_mask), *done])
        return fused

    def read(self, text: TextBatch, shown: Batch | None = None) -> tuple[TokenGroup, TokenGroup]:
        """The words (b, l, e), the tokens of the goal image that is `shown` after them, and their sentence (b, 1, e)."""
        words = self.language(text)
        if self.goal is not None and shown is not None and shown.goal is not None:
            now, seen = shown.images[:, -1, 0], shown.images_mask[:, -1, 0]  # of the first camera, as the goal image is
            words = join([words, self.goal(centered(shown.goal), shown.goal_mask, centered(now), seen)], "words")
        pooled = self.sentence(words).unsqueeze(1)
        pooled = pooled if self.tasks is None else self.tasks(pooled)
        sentence = TokenGroup(pooled, torch.ones_like(words.mask[:, :1]), "sentence")
        return (words, sentence) if text.rows is None else (words.take(text.rows), sentence.take(text.rows))

    def see(
        self,
        images: Tensor,
        mask: Tensor,
        sentence: Tensor,
        asking: tuple[Tensor, Tensor] | None = None,
        features: Tensor | None = None,
    ) -> tuple[list[TokenGroup], TokenGroup | None]:
        """Every frame through the vision encoder, then all frames' tokens side by side; and where questions point: `asking`
        of which rows (q,) by what sentences (q, e).

        Where there are `features` of the images, they take their place: the encoder goes on from them.
        """
        frames = images.shape[1]
        images, mask, sentence = centered(images).flatten(0, 1), mask.flatten(0, 1), sentence.repeat_interleave(frames, 0)
        look, ask = self.vision, getattr(self.vision, "ask_many", None)
        if features is not None:
            images, look, ask = features.flatten(0, 1), self.vision.groups, self.vision.answer
        if asking is None:
            return [self._in_time(group, frames) for group in look(images, mask, sentence)], None
        rows, told = asking[0] * frames + frames - 1, asking[1]
        if ask is not None:
            groups, answers = ask(images, mask, sentence, told, rows)
        else:
            groups, answers = look(images, mask, sentence), pointing(look(images[rows], mask[rows], told))
        return [self._in_time(group, frames) for group in groups], answers

    def feel(self, state: Tensor, mask: Tensor) -> TokenGroup:
        return self._in_time(self.state(state.flatten(0, 1), mask.flatten()), state.shape[1])

    def done(self, batch: Batch) -> TokenGroup:
        """The action before the latest frame, as a token for each frame (b, t, e), masked in all but the latest."""
        action, mask = batch.acted, batch.acted_mask
        if action is None or mask is None:
            action = batch.state.new_zeros(len(batch.state), self.sizes.action_size)
            mask = torch.zeros_like(batch.state_mask[:, 0])
        group: TokenGroup = self.acted(action, mask)  # type: ignore[misc]
        earlier = self.config.history - 1
        return TokenGroup(F.pad(group.tokens, (0, 0, earlier, 0)), F.pad(group.mask, (earlier, 0)), group.kind)

    def losses(self, batch: Batch, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Scalars by name; ``"loss"`` is their weighted sum, the one to minimize (see `Balance`).

        Rows whose `actions_mask` is False throughout teach only the keypoints; a batch without `steps_left` teaches no value.
        """
        if self.training and self.config.word_dropout:
            batch = dataclasses.replace(batch, text=drop_words(batch.text, self.config.word_dropout, generator))
        if self.training and self.acted is not None and self.config.acted_dropout and batch.acted_mask is not None:
            kept = torch.rand(batch.acted_mask.shape, generator=generator) >= self.config.acted_dropout
            batch = dataclasses.replace(batch, acted_mask=batch.acted_mask & kept.to(batch.acted_mask.device))
        captions = batch.captions if getattr(self.contrast, "attends", False) else None
        seen, words, sentence, answers, told = self._look(batch, joined(batch.questions, captions, self.sizes.views, POINTS))
        losses: dict[str, Tensor] = {}
        keypoints = pointing(seen)
        if self.fuses:
            fused = self._fuse(batch, seen, words, sentence)
            if self.memory is not None:
                fused = self._remember(fused, batch.state_mask.any(1) | batch.images_mask.flatten(1).any(1))
            if self.recall is not None:
                fused, places, logits = self.recall(fused, keypoints)
            losses = self.head.losses(fused, batch, generator)
        if keypoints is not None and batch.keypoints is not None and batch.keypoints_mask is not None:
            losses |= keypoint_loss(keypoints, batch.keypoints, batch.keypoints_mask, self.config.history)
            if answers is not None and batch.questions is not None:
                count = len(batch.questions.rows)
                asked = keypoint_loss(answers.take(slice(count)), batch.questions.keypoints, batch.questions.mask)
                losses["keypoint"] = losses["keypoint"] + asked["keypoint"]
        if self.recall is not None and batch.keypoints is not None and batch.recall_mask is not None:
            losses["recall"] = self.recall.loss(places, logits, batch.keypoints, batch.recall_mask)
        if self.value is not None and batch.steps_left is not None:
            losses["value"] = self.value.loss(fused, batch)
        if self.grasp is not None and batch.grasp is not None and batch.grasp_mask is not None:
            losses["grasp"] = self.grasp.loss(fused, batch.grasp, batch.grasp_mask)
        if self.contrast is not None:
            losses |= compared(self, batch, answers, told)
        return self.balance(losses)

    def glance(self, batch: Batch) -> TokenGroup:
        """What the latest pictures show whatever is said of them (b, n, e)."""
        images, mask, look = centered(batch.images[:, -1]), batch.images_mask[:, -1], self.vision
        if batch.features is not None:
            images, look = batch.features[:, -1], self.vision.groups
        return join(look(images, mask, self.contrast.glance.expand(len(mask), -1)))

    def predict(
        self, batch: Batch, generator: torch.Generator | None = None, seeds: Sequence[int | None] | None = None
    ) -> Prediction:
        """What is to be done, and what is thought of beside; where no action was ever learned the actions are random.

        Args:
            seeds: of each row; its actions are drawn from the head's distribution where it is not None.

        Raises `ConfigError` for seeds and a head without a distribution.
        """
        rows = None if self.contrast is None else torch.arange(len(batch.state), device=batch.state.device)
        seen, words, sentence, answers, _ = self._look(batch, None, rows)
        fused, keypoints = self._fuse(batch, seen, words, sentence), pointing(seen)
        alignment, memory = None, None
        if self.contrast is not None:
            found = answers if self.contrast.attends else self.glance(batch)
            alignment = self.contrast.alignment(sentence.tokens[:, 0], found)
        if self.memory is not None:
            count, device = len(fused.tokens), fused.tokens.device
            writes = torch.ones(count, dtype=torch.bool, device=device) if batch.writes is None else batch.writes
            fused, memory = self.memory(fused, batch.memory or self.memory.initial(count, device), writes)
        if self.recall is not None:
            fused, *_ = self.recall(fused, keypoints)
        actions = self.head.predict(fused, generator) if seeds is None else self._sampled(fused, seeds)
        value = None if self.value is None else self.value(fused)
        tasks = self.head.classify(fused).softmax(-1) if hasattr(self.head, "classify") else None
        grasp = None if self.grasp is None else self.grasp(fused)
        points = None if keypoints is None else keypoints.points
        points = None if points is None else supervised(points, self.sizes.views, self.config.history)
        return Prediction(actions, points, memory, value, tasks, grasp, alignment)

    def _sampled(self, fused: TokenGroup, seeds: Sequence[int | None]) -> Tensor:
        if not isinstance(self.head, StochasticHead):
            raise ConfigError(f"head {self.config.head.name!r} has no distribution to sample actions from")
        return sampled(self.head, fused, seeds)

    def _remember(self, fused: TokenGroup, present: Tensor) -> TokenGroup:
        """Each row of a sequence with what the rows before it left in the memory; frames that are not `present` leave nothing."""
        frames = self.config.sequence
        if len(fused.tokens) % frames:
            raise ConfigError(f"this network learns from sequences of {frames} rows; the batch has {len(fused.tokens)}")
        tokens, mask, writes = (x.unflatten(0, (-1, frames)) for x in (fused.tokens, fused.mask, present))
        state: MemoryState = self.memory.initial(len(tokens), tokens.device)  # type: ignore[union-attr]
        out = []
        for i in range(frames):
            seen, state = self.memory(TokenGroup(tokens[:, i], mask[:, i], fused.kind), state, writes[:, i])  # type: ignore[misc]
            out.append(seen)
        tokens, mask = (torch.stack(parts, 1).flatten(0, 1) for parts in zip(*((s.tokens, s.mask) for s in out), strict=True))
        return TokenGroup(tokens, mask, fused.kind)

    def _in_time(self, group: TokenGroup, frames: int) -> TokenGroup:
        if frames == 1 and self.config.history == 1:
            return group
        if frames != self.config.history:
            raise ConfigError(f"this network sees {self.config.history} frames at once; the batch has {frames}")

        def side_by_side(x: Tensor | None) -> Tensor | None:
            return None if x is None else x.unflatten(0, (-1, frames)).flatten(1, 2)

        tokens = (group.tokens.unflatten(0, (-1, frames)) + self.times[:, None]).flatten(1, 2)
        return TokenGroup(tokens, side_by_side(group.mask), group.kind, side_by_side(group.points), side_by_side(group.heatmaps))  # type: ignore[arg-type]
