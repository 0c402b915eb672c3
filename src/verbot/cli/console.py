"""The command that opens the console."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path

from verbot.cli.options import PAGE, PageOptions
from verbot.cli.terminal import refuse


@dataclass(frozen=True)
class SecurityOptions:
    """How the page is served.

    Args:
        token_file: file with the first part of the page's address, which otherwise is another one each time.
        tls_cert: PEM file of a certificate: the page is encrypted. Other machines get the microphone only so.
        tls_key: PEM file of its key.
    """

    token_file: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None


@dataclass(frozen=True)
class StageOptions:
    """Where the policy acts at first; the page offers others.

    Args:
        suite: the env; see `verbot list envs`.
        scene: number of a test scene.
        axes: randomization axes, each followed by its strength, 1 to 3.
        seed: another seed is another set of scenes.
        robot: drives this robot in real time, in place of a suite; see `verbot list robots`.
        unguarded: accept a robot without motion limits; its actions are still checked for numbers, size and range.
    """

    suite: str = "tabletop-starter"
    scene: int = 0
    axes: dict[str, int] | None = None
    seed: int = 0
    robot: str | None = None
    unguarded: bool = False


@dataclass(frozen=True)
class OfferOptions:
    """What the page offers beside.

    Args:
        speech: recognize speech, if the extra speech is installed.
        outputs: the folder whose reports, comparisons and datasets the page can open.
    """

    speech: bool = True
    outputs: Path = Path("outputs")


OFFER = OfferOptions()
SERVING, STAGE = SecurityOptions(), StageOptions()


def console_command(
    policy: str = "starter",
    stage: StageOptions = STAGE,
    execute: int = 1,
    seconds: float = 60.0,
    offer: OfferOptions = OFFER,
    check: bool = False,
    page: PageOptions = PAGE,
    serving: SecurityOptions = SERVING,
) -> int:
    """Open a page in which you type or say an instruction and see a robot obey it. Ctrl-C ends it.

    Example: verbot console --policy starter --suite tabletop-starter

    Args:
        policy: acts at first: a policy's folder, "starter" (it came with verbot), "expert", or a server's ws:// address.
        execute: number of actions of each chunk to execute.
        seconds: time limit of an instruction; 0 for none.
        check: end when the page could be opened: a look whether everything is there.
    """
    from verbot.console import ConsoleConfig, ConsoleSetup
    from verbot.workflows.console import ConsoleOptions, console, read_token

    if stage.robot is not None:
        refuse("a robot has no scenes", scene=stage.scene, axes=stage.axes, seed=stage.seed)
    if stage.robot is None:
        refuse("it concerns a robot: give --robot too", unguarded=stage.unguarded)
    setup = ConsoleSetup(policy, stage.suite if stage.robot is None else "", stage.scene, axes=stage.axes or {})
    options = ConsoleOptions(stage.robot or "", stage.unguarded, execute, stage.seed, offer.outputs, offer.speech)
    config = ConsoleConfig(page.host, page.port, read_token(serving.token_file), seconds)
    until = threading.Event()
    if check:
        until.set()
    console(setup, options, config, (serving.tls_cert, serving.tls_key), until)
    return 0
