"""Instructions that a language trunk reads: fitted and trained, or frozen with its states cached."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from published_weights import TEXTS, architecture, language_weights, write_checkpoint

from verbot.errors import ConfigError, CorruptFileError
from verbot.models.encoders.language.language_trunk import LanguageTrunkStates
from verbot.models.registries import language_encoders
from verbot.models.tokens import Sizes
from verbot.models.trunks.tiny import fitted_tokenizer

SIZES = Sizes(width=16, views=1, height=16, width_px=16, state=4, chunk=3, action=())


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = write_checkpoint(tmp_path_factory.mktemp("llama"), architecture("llama"), language_weights("llama"))
    (folder / "tokenizer.json").write_text(fitted_tokenizer(TEXTS, 290))
    return str(folder)


def made(trunk: dict[str, Any] | None = None, **options: Any) -> LanguageTrunkStates:
    options = options if trunk is None else {"trunk": trunk, **options}
    torch.manual_seed(0)
    return language_encoders.build("language_trunk", SIZES, **LanguageTrunkStates.fit(options, list(TEXTS)))


def frozen(checkpoint: str, **options: Any) -> dict[str, Any]:
    return {"name": "hf", "options": {"checkpoint": checkpoint, "mode": "frozen", "depth": 2, **options}}


def test_states_of_a_frozen_trunk_are_cached_and_not_saved(checkpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = made(frozen(checkpoint))
    batch = encoder.prepare([TEXTS[0].upper(), ""])
    assert batch.values.dtype == torch.float16 and batch.mask.sum(1).tolist()[1] == 1
    assert sum(p.numel() for p in encoder.parameters()) < 10_000 and not [n for n in encoder.state_dict() if "trunk" in n]
    monkeypatch.setattr(LanguageTrunkStates, "own", None)  # a second time nothing is computed
    assert torch.equal(encoder.prepare([TEXTS[0]]).values, batch.values[:1])


def test_a_trained_trunk_gives_the_states_of_a_frozen_one_and_learns(checkpoint: str) -> None:
    kept, learns = made(frozen(checkpoint, dtype="float32")), made(frozen(checkpoint, mode="trained"))
    learns.load_state_dict({**learns.state_dict(), **kept.state_dict()})
    batch = learns.prepare(list(TEXTS))
    assert batch.values.dtype == torch.int64
    tokens, cached = learns(batch).tokens, kept(kept.prepare(list(TEXTS))).tokens
    torch.testing.assert_close(tokens[batch.mask], cached[batch.mask], rtol=0, atol=5e-3)  # float16 in the cache
    tokens.square().sum().backward()
    assert all(p.grad is not None for p in learns.project.parameters()) and learns.trunk.decoder.embed_tokens.weight.grad.any()


def test_the_default_is_a_small_trunk_fitted_to_the_instructions() -> None:
    encoder = made()
    assert encoder.own.tokenizer.size > 259 and not encoder.is_constant
    assert encoder(encoder.prepare(["a word that was never read", ""])).mask.sum(1).tolist()[1] == 1


def test_long_instructions_are_cut(checkpoint: str) -> None:
    for encoder in (made(frozen(checkpoint), longest=5), made(longest=5)):
        assert encoder.prepare([" ".join(TEXTS)]).mask.sum() == 5 == encoder.most_tokens()


def test_what_does_not_fit_is_refused(checkpoint: str, tmp_path: Path) -> None:
    for trunk, message in (
        ({"options": {}}, "expected a name, and options"),
        ("hf", "expected a name, and options"),
    ):
        with pytest.raises(ConfigError, match=message):
            made(trunk)
    with pytest.raises(ConfigError, match="expected at least 2"):
        made(longest=1)
    with pytest.raises(ConfigError, match="not identified"):
        language_encoders.build("language_trunk", SIZES, trunk=frozen(checkpoint))
    other = write_checkpoint(tmp_path / "other", architecture("llama"), language_weights("llama", 1))
    (other / "tokenizer.json").write_text(fitted_tokenizer(TEXTS, 290))
    fitted = LanguageTrunkStates.fit({"trunk": frozen(checkpoint)}, [])
    fitted["trunk"]["options"]["checkpoint"] = str(other)
    with pytest.raises(CorruptFileError, match="not the weights that the policy was trained on"):
        language_encoders.build("language_trunk", SIZES, **json.loads(json.dumps(fitted)))
