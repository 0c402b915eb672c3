"""Language reward models: the matcher, models behind an endpoint, and pretrained models of the transformers library."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import tokenizers
import torch
import transformers

from verbot.errors import ConfigError, CorruptFileError, MissingDependencyError, PolicyError, WireError
from verbot.models.reward_models import matcher as module
from verbot.models.reward_models import reward_models
from verbot.models.reward_models.endpoint import KEY, EndpointRewardModel, opinion
from verbot.models.reward_models.huggingface import PretrainedRewardModel
from verbot.models.reward_models.matcher import Matcher, TrainedRewardModel, split

NEAR = "the robot's arm is raised; the robot is 0.52 m from the red circle; the robot has stopped at the red circle"
FAR = "the robot's arm is raised; the robot is 2.52 m from the red circle; the robot has stopped at nothing"
GO, OTHER = "go to the red circle", "drive to the blue square with your arm down"


@pytest.fixture
def matcher():
    torch.manual_seed(0)
    return Matcher(width=16, heads=2).eval()


def test_the_score_of_a_pair_does_not_depend_on_the_batch(matcher):
    pairs = [(NEAR, GO), (FAR, OTHER), ("", GO), (NEAR, OTHER)]
    together = matcher(*zip(*pairs, strict=True))
    for row, (state, goal) in zip(together, pairs, strict=True):
        assert torch.allclose(matcher([state], [goal])[0], row, atol=1e-5)
    for _ in range(2):  # the second time from memory
        assert torch.allclose(matcher.forward_no_grad(*zip(*pairs, strict=True)), together, atol=1e-5)


def test_numbers_are_read_as_numbers(matcher):
    assert split("12 m from the 0.5 m mark") == ("number m from the number m mark", (12.0, 0.5))
    near, nearer, same = matcher([NEAR, NEAR.replace("0.52", "0.51"), NEAR.replace("0.52", "0.520")], [GO] * 3)
    far = matcher([NEAR.replace("0.52", "2.52")], [GO])[0]
    assert torch.equal(near, same) and not torch.equal(near, nearer)
    assert (near - nearer).abs().max() < (near - far).abs().max() / 5


def test_a_matcher_comes_back_from_its_file(matcher, tmp_path, monkeypatch):
    path = tmp_path / "reward_model.safetensors"
    matcher.save(path)
    model = reward_models.get("matcher")(str(path))
    assert np.array_equal(model.score([NEAR, FAR], [GO, GO]), matcher.forward_no_grad([NEAR, FAR], [GO, GO]).sigmoid().numpy())
    monkeypatch.setattr(module, "FORMAT", module.OLD_FORMAT)
    matcher.save(path)
    monkeypatch.undo()
    assert module.OLD_FORMAT != module.FORMAT
    assert torch.equal(Matcher.load(path).vote.weight, matcher.vote.weight), "files of the former format are read"
    fitted = TrainedRewardModel.fit({"path": str(path)})
    with torch.no_grad():
        matcher.out[-1].bias += 1.0
    matcher.save(path)
    with pytest.raises(PolicyError, match=f"has changed: sha256 .*, not {fitted['sha256']}"):
        TrainedRewardModel(**fitted)
    matcher._frozen = type("Other", (), {"sha256": "0" * 64})()
    matcher.save(path)
    with pytest.raises(PolicyError, match="trained on other MiniLM weights"):
        TrainedRewardModel(str(path))
    Matcher(16, 2, outputs=3).save(path)
    with pytest.raises(ConfigError, match="has 3 outputs; a reward model has 2"):
        TrainedRewardModel(str(path))
    path.write_bytes(b"no tensors")
    with pytest.raises(PolicyError, match="is not a reward model"):
        TrainedRewardModel(str(path))
    with pytest.raises(PolicyError, match="there is no reward model at"):
        TrainedRewardModel.fit({"path": str(tmp_path / "nothing")})


class Endpoint(BaseHTTPRequestHandler):
    """Answers as `replies` says, in turn; otherwise by the protocol: near is done, letters are embeddings."""

    asked: list
    replies: list

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append((self.path, self.headers.get("Authorization"), body))
        status, answer = self.replies.pop(0) if self.replies else (200, self.answer(body))
        content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(status)
        self.end_headers()
        self.wfile.write(content)

    def answer(self, body):
        if self.path == "/v1/embeddings":
            return {"data": [{"embedding": [float(body["input"].count(letter)) for letter in "abcdefghijkl "]}]}
        said = body["messages"][-1]["content"]
        near = 0.9 if "0.52 m" in said else 0.1
        return {"choices": [{"message": {"content": f'Well: {{"progress": {near}, "done": {int(near > 0.5)}}}'}}]}

    def log_message(self, *args):
        pass


@pytest.fixture
def endpoint():
    handler = type("Handler", (Endpoint,), {"asked": [], "replies": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    handler.url = f"http://127.0.0.1:{server.server_port}/v1"
    yield handler
    server.shutdown()
    server.server_close()


def test_a_chat_model_is_asked_once_for_each_pair(endpoint, monkeypatch):
    monkeypatch.setenv(KEY, "secret")
    model = EndpointRewardModel("some-model", endpoint.url)
    found = model.score([NEAR, FAR, NEAR], [GO, GO, GO])
    assert found.tolist() == pytest.approx(np.array([[0.9, 1.0], [0.1, 0.0], [0.9, 1.0]]))
    assert len(endpoint.asked) == 2
    path, authorization, body = endpoint.asked[0]
    assert (path, authorization, body["model"], body["temperature"]) == ("/v1/chat/completions", "Bearer secret", "some-model", 0)
    assert GO in body["messages"][-1]["content"]
    model.score([FAR], [GO])
    assert len(endpoint.asked) == 2
    monkeypatch.delenv(KEY)
    EndpointRewardModel("some-model", endpoint.url).score([FAR], [GO])
    assert endpoint.asked[-1][1] is None


def test_embeddings_are_compared(endpoint):
    model = EndpointRewardModel("some-model", endpoint.url, kind="embeddings", floor=0.5, kept=1)
    found = model.score(["abc abc", "ggg"], ["abc abc", "abc abc"])
    assert found.tolist() == [[pytest.approx(1.0)] * 2, [0.0, 0.0]] and len(endpoint.asked) == 2
    model.score(["ggg"], ["abc abc"])
    assert len(endpoint.asked) == 3, "one of the two was forgotten"
    endpoint.replies += [(200, {"data": []})]
    with pytest.raises(WireError, match=r"no data\[0\].embedding"):
        model.score(["d"], ["d"])
    endpoint.replies += [(200, {"data": [{"embedding": [0.0]}]})]
    with pytest.raises(WireError, match="no vector of finite numbers, or only zeros"):
        model.score(["e"], ["e"])


def test_an_endpoint_that_fails_is_asked_again_and_then_named(endpoint):
    model = reward_models.build("openai", "some-model", endpoint.url, tries=3, wait_s=0.01)
    endpoint.replies += [(503, b"busy"), (429, b"slowly")]
    assert model.score([FAR], [GO])[0, 1] == 0.0
    endpoint.replies += [(503, b"busy")] * 3
    with pytest.raises(WireError, match=r"did not answer in 3 tries; the last: 503 .*: busy"):
        model.score([NEAR], [GO])
    for reply, error, message in (
        ((401, b"no key"), MissingDependencyError, f"set the environment variable {KEY} .*no key"),
        ((400, b"no such model"), WireError, "refused the request: 400 .*no such model"),
        ((200, b"<html>"), WireError, "did not answer in JSON"),
        ((200, {"error": "?"}), WireError, r"no choices\[0\].message.content"),
    ):
        endpoint.replies.append(reply)
        with pytest.raises(error, match=message):
            model.score([NEAR], [GO])
    nowhere = reward_models.build("openai", "some-model", "http://127.0.0.1:9/v1", tries=2, wait_s=0.01)
    with pytest.raises(WireError, match="did not answer in 2 tries"):
        nowhere.score([NEAR], [GO])


NO_OPINIONS = (
    "done",
    '{"progress": 1}',
    '{"progress": 2, "done": 0}',
    '{"progress": true, "done": 0}',
    None,
    '{"progress": 1, "done": 1} or {"progress": 0, "done": 0}',
)


@pytest.mark.parametrize("written", NO_OPINIONS)
def test_an_answer_without_two_numbers_is_refused(written):
    with pytest.raises(WireError, match="a model was asked for"):
        opinion(written)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"kind": "both"}, "'chat' or 'embeddings'"), ({"url": "file:///x"}, "expected http://"), ({"tries": 0}, "above 0")],
)
def test_invalid_options_of_an_endpoint_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        reward_models.build("openai", "some-model", **options)


SMALL = {"vocab_size": 40, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
         "initializer_range": 0.5}  # fmt: skip
JUDGES = {
    "entailment": lambda t: t.BertForSequenceClassification(
        t.BertConfig(**SMALL, id2label={0: "contradiction", 1: "neutral", 2: "Entailment"})
    ),
    "cross": lambda t: t.BertForSequenceClassification(t.BertConfig(**SMALL, num_labels=1)),
    "labels": lambda t: t.BertForSequenceClassification(t.BertConfig(**SMALL, num_labels=2)),
    "causal": lambda t: t.LlamaForCausalLM(t.LlamaConfig(**SMALL, num_key_value_heads=4)),
    "masked": lambda t: t.BertForMaskedLM(t.BertConfig(**SMALL)),
}
SPOKEN = "yes no the robot is near far from red circle command go to was carried out"
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *SPOKEN.split()]


@pytest.fixture(scope="module")
def judges(tmp_path_factory):
    root = tmp_path_factory.mktemp("judges")
    ids = {word: number for number, word in enumerate(WORDS)}
    for name, make in JUDGES.items():
        torch.manual_seed(0)
        make(transformers).save_pretrained(root / name)
        tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(ids, unk_token="[UNK]"))
        tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
        if name != "causal":
            tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
                single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
            )
        tokenizer.save(str(root / name / "tokenizer.json"))
    return root


STATES = ["the robot is near the red circle", "the robot is far"]


def by_hand(folder, kind, texts):
    """The library's own model and tokenizer, one pair after another."""
    model = getattr(transformers, kind).from_pretrained(folder).eval()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    with torch.no_grad():
        return [model(**tokenizer(*text, return_tensors="pt", return_token_type_ids=len(text) > 1)).logits[0] for text in texts]


def test_a_judge_of_entailment_and_a_cross_encoder(judges):
    found = reward_models.get("huggingface")(str(judges / "entailment")).score(STATES, [GO, GO])
    claims = [(state, f"the command was carried out: {GO}") for state in STATES]
    logits = by_hand(judges / "entailment", "AutoModelForSequenceClassification", claims)
    assert found[:, 1] == pytest.approx([float(row.softmax(-1)[2]) for row in logits], abs=1e-5)
    assert abs(found[0, 1] - found[1, 1]) > 1e-3
    model = PretrainedRewardModel(str(judges / "cross"), batch=1, kept=1)
    logits = by_hand(judges / "cross", "AutoModelForSequenceClassification", [(state, GO) for state in STATES])
    for _ in range(2):
        assert model.score(STATES, [GO, GO])[:, 0] == pytest.approx([float(row[0].sigmoid()) for row in logits], abs=1e-5)


def test_a_causal_model_says_yes_or_no(judges):
    found = reward_models.build("huggingface", str(judges / "causal"), question="{state} {goal}").score(STATES, [GO, GO])
    logits = by_hand(judges / "causal", "AutoModelForCausalLM", [(f"{state} {GO}",) for state in STATES])
    yes = [float(row[-1, [WORDS.index("yes"), WORDS.index("no")]].softmax(-1)[0]) for row in logits]
    assert found[:, 1] == pytest.approx(yes, abs=1e-5)
    with pytest.raises(ConfigError, match="begin with the same token, or with none"):
        reward_models.build("huggingface", str(judges / "causal"), no="yes")


def test_a_pretrained_model_that_cannot_judge_is_refused(judges, tmp_path):
    with pytest.raises(ConfigError, match="BertForMaskedLM; a reward model is a sequence classifier or a causal language model"):
        PretrainedRewardModel(str(judges / "masked"))
    with pytest.raises(ConfigError, match="LABEL_0, LABEL_1; a reward model needs a label 'entailment', or one output"):
        PretrainedRewardModel(str(judges / "labels"))
    fitted = PretrainedRewardModel.fit({"checkpoint": str(judges / "cross")})
    with pytest.raises(CorruptFileError, match="is another checkpoint than it was"):
        reward_models.build("huggingface", **{**fitted, "sha256": "0" * 64})
