"""A language model behind an HTTP endpoint with OpenAI's protocol: hosted, or served locally by vLLM, llama.cpp or Ollama."""

from __future__ import annotations

import json
import math
import os
import re
import time
import urllib.error
import urllib.request
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from verbot.errors import ConfigError, MissingDependencyError, WireError
from verbot.models.reward_models import reward_models
from verbot.spec import FloatArray

KEY = "OPENAI_API_KEY"
_AGAIN = (408, 409, 429, 500, 502, 503, 504)
_PROMPT = """You judge whether a robot has done what it was asked to do. You are given the command and a description of the \
present state. Answer with one JSON object and nothing else: {"progress": p, "done": d}. p is a number from 0 (no progress) to 1 \
(finished), d a number from 0 (certainly not done) to 1 (certainly done)."""
_OBJECT = re.compile(r"\{[^{}]*\}")


@dataclass(frozen=True)
class Requests:
    """How an endpoint is asked. The fields are options of the reward model.

    Args:
        timeout_s: timeout of one request.
        tries: number of tries of one request, if the endpoint does not answer, is busy or fails; each waits twice as long as
            the one before.
        wait_s: waiting time before the second try.
        together: number of simultaneous requests.
    """

    timeout_s: float = 30.0
    tries: int = 4
    wait_s: float = 1.0
    together: int = 8


REQUESTS = Requests()


@reward_models.register("openai")
class EndpointRewardModel:
    """A chat model returns two numbers, or embeddings are compared.

    Each distinct pair is requested once and cached. The API key is read from the environment variable ``OPENAI_API_KEY`` only.

    Args:
        model: as the endpoint names it.
        url: url of the endpoint, up to and including ``/v1``.
        kind: ``"chat"`` uses ``/chat/completions`` with temperature 0. ``"embeddings"`` uses ``/embeddings``; both numbers are
            then the cosine of state and instruction, rescaled so that `floor` is 0. It is crude: one vector for a sentence hardly
            distinguishes a red circle from a red square.
        requests: timeout, tries and how many at a requests.
        kept: size of the cache, in pairs (or in texts, for embeddings).
        floor: the cosine that counts as 0.

    Raises:
        ConfigError: an argument is invalid.
        MissingDependencyError: the endpoint requires an API key, and it is missing or wrong.
        WireError: the endpoint does not answer, or its answer violates the protocol.
    """

    def __init__(
        self,
        model: str,
        url: str = "https://api.openai.com/v1",
        kind: str = "chat",
        requests: Requests = REQUESTS,
        kept: int = 100_000,
        floor: float = 0.0,
    ):
        if kind not in ("chat", "embeddings"):
            raise ConfigError(f"kind of the openai reward model is {kind!r}; expected 'chat' or 'embeddings'")
        if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).netloc:
            raise ConfigError(f"url of the openai reward model is {url!r}; expected http://… or https://…")
        if requests.tries < 1 or requests.together < 1 or kept < 1 or requests.timeout_s <= 0 or not floor < 1:
            raise ConfigError("the openai reward model needs tries, together, kept and timeout_s above 0, and a floor below 1")
        self._model, self._url, self._chat = model, url.rstrip("/"), kind == "chat"
        self._requests, self._kept, self._floor = requests, kept, floor
        self._known: OrderedDict[Any, Any] = OrderedDict()

    def score(self, states: Sequence[str], goals: Sequence[str]) -> FloatArray:
        if self._chat:
            found = self._ask(list(zip(states, goals, strict=True)), self._opinion)
            return np.array(found, np.float32).reshape(-1, 2)
        texts = self._ask([*states, *goals], self._embedding)
        one, other = np.stack(texts[: len(states)]), np.stack(texts[len(states) :])
        if one.shape[1] != other.shape[1]:
            raise WireError(f"{self._url} gave embeddings of {one.shape[1]} and of {other.shape[1]} numbers")
        cosine = np.einsum("ne,ne->n", one, other)
        scores = np.clip((cosine - self._floor) / (1 - self._floor), 0.0, 1.0)
        return np.stack([scores, scores], -1).astype(np.float32)

    def _ask(self, keys: Sequence[Any], answer: Any) -> list[Any]:
        """The answer for each key, from the cache or from the endpoint."""
        missing = list(dict.fromkeys(key for key in keys if key not in self._known))
        if missing:
            with ThreadPoolExecutor(min(self._requests.together, len(missing))) as pool:
                found = dict(zip(missing, pool.map(answer, missing), strict=True))
            self._known |= found
        answers = [self._known[key] for key in keys]
        while len(self._known) > self._kept:
            self._known.popitem(last=False)
        return answers

    def _opinion(self, pair: tuple[str, str]) -> tuple[float, float]:
        state, goal = pair
        messages = [{"role": "system", "content": _PROMPT}, {"role": "user", "content": f"Command: {goal}\nState: {state}"}]
        answer = self._post("/chat/completions", {"model": self._model, "messages": messages, "temperature": 0})
        try:
            content = answer["choices"][0]["message"]["content"]
        except (KeyError, IndexError, TypeError) as error:
            raise WireError(f"{self._url} did not answer by the protocol: no choices[0].message.content") from error
        return opinion(content)

    def _embedding(self, text: str) -> FloatArray:
        answer = self._post("/embeddings", {"model": self._model, "input": text, "encoding_format": "float"})
        try:
            vector = np.array(answer["data"][0]["embedding"], np.float32)
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise WireError(f"{self._url} did not answer by the protocol: no data[0].embedding") from error
        length = float(np.linalg.norm(vector)) if vector.ndim == 1 and vector.size else 0.0
        if not math.isfinite(length) or length == 0.0:
            raise WireError(f"{self._url} gave an embedding that is no vector of finite numbers, or only zeros")
        unit: FloatArray = vector / length
        return unit

    def _post(self, path: str, body: Mapping[str, Any]) -> Any:
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get(KEY):
            headers["Authorization"] = f"Bearer {key}"
        request = urllib.request.Request(self._url + path, json.dumps(body).encode(), headers)
        reason = ""
        for turn in range(self._requests.tries):
            if turn:
                time.sleep(self._requests.wait_s * 2 ** (turn - 1))
            try:
                with urllib.request.urlopen(request, timeout=self._requests.timeout_s) as response:
                    return json.loads(response.read())
            except urllib.error.HTTPError as error:
                with error:
                    reason = f"{error.code} {error.reason}: {error.read(500).decode(errors='replace')}"
                if error.code in (401, 403):
                    raise MissingDependencyError(
                        f"{self._url} asks for a key that is not there or not right: set the environment variable {KEY} "
                        f"({reason})"
                    ) from error
                if error.code not in _AGAIN:
                    raise WireError(f"{self._url}{path} refused the request: {reason}") from error
            except json.JSONDecodeError as error:
                raise WireError(f"{self._url}{path} did not answer in JSON: {error}") from error
            except OSError as error:  # URLError, and a connection that breaks or takes too long
                reason = f"{error}"
        raise WireError(f"{self._url}{path} did not answer in {self._requests.tries} tries; the last: {reason}")


def opinion(content: Any) -> tuple[float, float]:
    """The two numbers in the answer of a model, which may have text or a code fence around them.

    Raises `WireError` if they are missing or outside [0, 1].

    Example:
        >>> opinion('{"progress": 0.25, "done": 0}')
        (0.25, 0.0)
    """
    found = _OBJECT.findall(content) if isinstance(content, str) else []
    try:
        (record,) = [json.loads(text) for text in found]
        numbers = record["progress"], record["done"]
    except (ValueError, KeyError, TypeError) as error:
        raise WireError(f'a model was asked for {{"progress": p, "done": d}} and wrote {str(content)[:200]!r}') from error
    for number in numbers:
        if isinstance(number, bool) or not isinstance(number, (int, float)) or not 0 <= number <= 1:
            raise WireError(f"a model was asked for two numbers from 0 to 1 and wrote {str(content)[:200]!r}")
    return float(numbers[0]), float(numbers[1])
