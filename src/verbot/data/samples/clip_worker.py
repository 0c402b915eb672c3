"""A process that decodes clips into shared memory; started by `verbot.data.samples.clips.DecodedClips`."""

from __future__ import annotations

from verbot.data.samples.clip_memory import ClipMemory
from verbot.data.storage.pictures import PictureReader
from verbot.data.storage.reader import open_dataset
from verbot.parallel.workers import Channel, serve


def work(channel: Channel) -> None:
    """Answers each `ClipRequest` with its slot, once the clip is there."""
    setup = channel.receive()
    arguments = dict(setup["opened"])
    dataset, memory = open_dataset(arguments.pop("root"), **arguments), ClipMemory.attach(setup["memory"])
    with PictureReader(setup["fits"]) as reader:
        while True:
            request = channel.receive()
            memory.fill(request, reader, dataset)
            channel.send(request.slot)


if __name__ == "__main__":
    serve(work)
