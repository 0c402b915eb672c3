"""The command that serves a policy, in this process; the policy is a small one."""

import io
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import warnings

import numpy as np
import pytest

from verbot import cli
from verbot.deploy import PolicyServer, ServingOptions
from verbot.errors import ConfigError, PolicyError
from verbot.parallel.signals import StopRequest
from verbot.remote import RemotePolicy
from verbot.spec import ActionChunk, Camera, Component, RobotSpec
from verbot.text import PrintableStream
from verbot.workflows import serve
from verbot.workflows.serve import ServerAddress, private_text, serve_policy, warm_up

PART = Component("x", "other", ("x",), "1", "base", (-1.0,), (3.0,))
SPEC = RobotSpec("toy", 10.0, (Camera("front", 4, 6), Camera("deep", 4, 6, kind="depth")), (PART,), (PART,))


class Still:
    spec = SPEC

    def __init__(self):
        self.asked = []

    def predict(self, observations):
        for observation in observations:
            observation.check(SPEC)
        self.asked.append((len(observations), float(observations[0].state[0])))
        return [ActionChunk(np.zeros((1, 1), np.float32)) for _ in observations]


def run(monkeypatch, capfd, number, *options, beside=lambda url: None):
    """The exit code and the output of `verbot serve` that a signal ends once it is ready and `beside` is done."""
    monkeypatch.setattr(serve, "open_policy", lambda name, device: Still())
    found, printed, over = [], serve.print_line, threading.Event()

    def show(text):
        printed(text)
        found.append(text)

    def end():
        while not (found and found[-1].startswith("ready")):
            if over.wait(0.01):  # it failed: a signal would end what runs next
                return
        try:
            beside(found[0].split()[1])
        finally:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(serve_policy, "__defaults__", (show, False))
    ender = threading.Thread(target=end)
    ender.start()
    try:
        with pytest.raises(SystemExit) as left:
            cli.main(["serve", "starter", "--port", "0", *options])
    finally:
        over.set()
        ender.join(10)
    return left.value.code, capfd.readouterr()


def test_it_serves_until_it_is_asked_to_end(monkeypatch, capfd):
    def beside(url):
        with RemotePolicy(url) as policy:
            assert policy.spec == SPEC and policy.predict([serve.blank_observation(SPEC)])[0].values.shape == (1, 1)
        with urllib.request.urlopen(url.replace("ws", "http") + "/healthz", timeout=5) as answer:
            assert answer.read() == b"OK\n"

    code, printed = run(monkeypatch, capfd, signal.SIGTERM, beside=beside)
    lines = printed.out.splitlines()
    assert code == 0 and [line.split()[0] for line in lines[:4]] == [
        "verbot.remote.RemotePolicy",
        "openpi's",
        "vla-eval's",
        "health,",
    ]
    assert lines[4].startswith("ready: toy, ") and "1 requests" in lines[5] and len(lines) == 6
    with warnings.catch_warnings(record=True) as shown:  # a client's picture writes no line
        warnings.warn_explicit("Corrupt EXIF data", UserWarning, "file", 1, "PIL.TiffImagePlugin")
    assert not shown


def test_interrupting_it_is_reported_to_the_shell(monkeypatch, capfd):
    code, printed = run(monkeypatch, capfd, signal.SIGINT, "--quiet")
    assert code == 130 and "verbot: interrupted" in printed.err and "Traceback" not in printed.err


def test_a_token_and_a_certificate_are_read_from_private_files(monkeypatch, capfd, tmp_path):
    token = tmp_path / "token"
    token.touch(0o600)
    token.write_text("a-token-of-some-length\n")

    def beside(url):
        RemotePolicy(url, token="a-token-of-some-length").close()
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(url.replace("ws", "http") + "/metrics", timeout=5)

    assert run(monkeypatch, capfd, signal.SIGTERM, "--token-file", str(token), beside=beside)[0] == 0
    token.chmod(0o640)
    with pytest.raises(ConfigError, match=r"which other users can read \(-rw-r-----\): chmod 600"):
        private_text(token, "--token-file")
    with pytest.raises(ConfigError, match="which cannot be read: Is a directory"):
        private_text(tmp_path, "--token-file")
    token.chmod(0o600)
    token.write_bytes(b"x" * 5000)
    with pytest.raises(ConfigError, match="more than 4096 bytes"):
        private_text(token, "--token-file")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--host", "0.0.0.0"], "and token and tls"),
        (["--tls-cert", "cert.pem"], "belong together"),
        (["--token-file", "missing"], "No such file"),
        (["--port", "70000"], "--port"),
        (["--max-clients", "0"], "--max-clients"),
    ],
)
def test_what_cannot_be_served_is_said_before_a_policy_is_loaded(monkeypatch, capfd, options, says):
    monkeypatch.setattr(serve, "open_policy", lambda name, device: pytest.fail("it was loaded"))
    with pytest.raises(SystemExit) as left:
        cli.main(["serve", "starter", *options])
    error = capfd.readouterr().err
    assert left.value.code == 2 and says in error and error.count("\n") == 1


@pytest.mark.skipif(not shutil.which("openssl"), reason="openssl makes the certificate")
def test_the_key_of_a_certificate_is_private_too(tmp_path):
    key = tmp_path / "key.pem"
    key.touch(0o644)
    with pytest.raises(ConfigError, match="--tls-key is .* which other users can read"):
        ServerAddress(tls_cert=tmp_path / "cert.pem", tls_key=key).check()
    key.unlink()
    names = ["-keyout", key, "-out", tmp_path / "cert.pem", "-passout", "pass:secret", "-subj", "/CN=robot"]
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", *names], check=True,
                   capture_output=True, timeout=60)  # fmt: skip
    key.chmod(0o600)
    with pytest.raises(ConfigError, match="is encrypted; expected one without a password"):
        ServerAddress(tls_cert=tmp_path / "cert.pem", tls_key=key).check()


def test_nobody_is_served_before_the_policy_is_warm(monkeypatch):
    policy = Still()
    assert warm_up(policy, 5) >= 0 and policy.asked == [(n, 1.0) for n in (1, 1, 2, 2, 4, 4)]
    monkeypatch.setattr(policy, "predict", lambda observations: 1 / 0)
    monkeypatch.setattr(ServerAddress, "start", lambda *arguments: pytest.fail("it was served"))
    with pytest.raises(PolicyError, match="cannot predict for 1 observations: ZeroDivisionError"):
        serve_policy(policy, ServerAddress(), ServingOptions(), StopRequest())


def test_what_happens_is_one_line_that_changes_on_a_terminal(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    shown, ended = Terminal(), threading.Event()
    monkeypatch.setattr(sys, "stderr", PrintableStream(shown))
    monkeypatch.setattr(serve, "TERMINAL_S", 0.01)
    with PolicyServer(Still()) as server:
        watcher = threading.Thread(target=serve._report, args=(server, ended))
        watcher.start()
        until = time.monotonic() + 10
        while shown.getvalue().count("\r") < 3 and time.monotonic() < until:
            time.sleep(0.01)
        ended.set()
        watcher.join(5)
    assert "\r\x1b[K0 clients, 0.0 requests/s, p50 0.0 ms" in shown.getvalue() and "\n" not in shown.getvalue()
    assert shown.getvalue().endswith("\r\x1b[K")


def test_a_signal_while_the_policy_is_loaded_serves_nobody(monkeypatch):
    monkeypatch.setattr(ServerAddress, "start", lambda *arguments: pytest.fail("it was served"))
    request = StopRequest()
    request.number = signal.SIGTERM
    serve_policy(Still(), ServerAddress(), ServingOptions(), request)
