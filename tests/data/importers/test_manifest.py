import json

import av
import numpy as np
import pytest
from PIL import Image

from verbot.data import ImportConfig, import_dataset, open_dataset
from verbot.errors import DataError


def save(folder, entries, wrap=None):
    folder.mkdir(exist_ok=True)
    (folder / "manifest.json").write_text(json.dumps(entries if wrap is None else {wrap: entries}))


def picture(folder, name, frame):
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(frame).save(folder / name)
    return name


def steps(folder, number, truth, **more):
    """One entry a frame, of one episode."""
    return [
        {
            "image_path": picture(folder, f"images/{number}_{t}.png", truth.images["image"][t]),
            "instruction": truth.instruction,
            "action": truth.actions[t].tolist(),
            "robot_state": truth.states[t].tolist(),
            "episode_id": number,
            **more,
        }
        for t in range(len(truth))
    ]


@pytest.mark.parametrize("wrap", [None, "episodes", "samples"])
def test_steps_grouped_by_episode(tmp_path, truth, same, wrap):
    source = tmp_path / "raw"
    truths = [truth(number, cameras=("image",)) for number in range(3)]
    save(source, [entry for number, one in enumerate(truths) for entry in steps(source, number, one)], wrap)
    result = import_dataset(source, tmp_path / "out", ImportConfig(rate_hz=5))
    assert (result.format, result.episodes, result.skipped, result.problems, result.exit_code) == ("manifest", 3, (), (), 0)
    dataset = same(tmp_path / "out", truths, ["episode 0", "episode 1", "episode 2"])
    assert dataset.spec.rate_hz == 5
    (state,) = dataset.spec.state
    assert (state.name, state.kind) == ("robot_state", "other")
    np.testing.assert_allclose(state.low, np.concatenate([one.states for one in truths]).min(0))
    assert "observed_frames" not in dataset[0].extras


def test_sequences_of_pictures_two_cameras_and_a_video(tmp_path, truth, same):
    source, one = tmp_path / "raw", truth(1, cameras=("front", "wrist"))
    front = [picture(source, f"front{t}.png", frame) for t, frame in enumerate(one.images["front"])]
    with av.open(str(source / "wrist.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"crf": "0", "preset": "ultrafast"})
        stream.height, stream.width, stream.pix_fmt = 32, 40, "yuv444p"
        for frame in one.images["wrist"]:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    entry = {
        "image_path": {"front": front, "wrist": "wrist.mp4"},
        "instruction": one.instruction,
        "action_sequence": one.actions.tolist(),
        "robot_state": one.states.tolist(),
    }
    save(source, [entry])
    import_dataset(source, tmp_path / "out", ImportConfig(rate_hz=10))
    same(tmp_path / "out", [one], ["entry 0"])


def test_one_image_is_repeated_for_a_sequence_and_recorded_as_such(tmp_path, truth):
    source, one = tmp_path / "raw", truth(0, cameras=("image",))
    path = picture(source, "look.png", one.images["image"][0])
    save(source, [{"image_path": path, "instruction": ["lift it", "pick it up"], "action_sequence": one.actions.tolist()}])
    import_dataset(source / "manifest.json", tmp_path / "out", ImportConfig(rate_hz=10))
    episode = open_dataset(tmp_path / "out")[0]
    assert episode.states.shape == (len(one), 0)
    assert episode.extras["observed_frames"] == [0]
    assert (episode.instruction, episode.instructions) == ("lift it", ("lift it", "pick it up"))
    assert np.ptp(episode.images("image").astype(int), axis=0).max() <= 12
    assert episode.actions.tobytes() == one.actions.tobytes()


def test_single_samples_are_episodes(tmp_path, truth, same):
    source, one = tmp_path / "raw", truth(0, cameras=("image",), length=1)
    entries = steps(source, 0, one)
    del entries[0]["episode_id"]
    save(source, entries)
    import_dataset(source, tmp_path / "out", ImportConfig(rate_hz=10))
    same(tmp_path / "out", [one], ["entry 0"])


def broken(change):
    """Three episodes of which the one in the middle is changed."""

    def make(source, truth):
        truths = [truth(number, cameras=("image",)) for number in range(3)]
        groups = [steps(source, number, one) for number, one in enumerate(truths)]
        change(groups[1], source)
        save(source, [entry for group in groups for entry in group])
        return [truths[0], truths[2]]

    return make


def cut_picture(group, source):
    path = source / group[2]["image_path"]
    path.write_bytes(path.read_bytes()[:60])


def other_size(group, source):
    Image.new("RGB", (8, 8)).save(source / group[1]["image_path"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda g, s: g[1].pop("robot_state"),
            "entry 1 has no robot_state while others have one (--set state=false leaves it out)",
        ),
        (lambda g, s: g[1].pop("action"), "entry 1 has neither action nor action_sequence; it has image_path, instruction"),
        (lambda g, s: g[1].pop("image_path"), "entry 1 has no image_path; it has instruction, action, robot_state, episode_id"),
        (lambda g, s: g[1].update(action=[1.0, 2.0]), "action has 2 and 3 numbers in one episode"),
        (lambda g, s: g[0].update(action=[[1.0], [2.0, 3.0]]), "entry 0: action is not a vector, nor a list of vectors"),
        (lambda g, s: g[0].update(action=1.0), "entry 0: action has shape (); expected 1 dimension(s)"),
        (lambda g, s: g[0].update(instruction=3), "entry 0: instruction is 3; expected a sentence, or a list of them"),
        (lambda g, s: g[0].update(action=[1.0, 2.0, float("nan")]), "actions are not finite at frame 0"),
        (lambda g, s: g[0].update(image_path="../../x.png"), "is not a path within the manifest's folder"),
        (lambda g, s: g[0].update(image_path="none.png"), "none.png: cannot be read (No such file or directory)"),
        (lambda g, s: g[0].update(image_path="none.mp4"), "none.mp4: cannot be read (No such file or directory)"),
        (lambda g, s: g[0].update(image_path=["a.png", "b.png"]), "entry 0 has 2 pictures of camera 'image' for 1 actions"),
        (lambda g, s: g[0].update(image_path=3), "entry 0: image_path is int; expected a path, a list or an object"),
        (lambda g, s: g[0].update(image_path={"left": "a.png"}), "entry 1 has cameras image; the first has left"),
        (lambda g, s: g[0].update(robot_state=[[1.0] * 4] * 2), "entry 0: robot_state has shape (2, 4) for 1 actions"),
        (cut_picture, "is not a whole picture"),
        (other_size, "is a picture of 8×8 pixels; those of its camera have 24×32"),
    ],
)
def test_a_broken_episode_is_named_and_the_rest_imported(tmp_path, truth, same, change, message):
    source = tmp_path / "raw"
    whole = broken(change)(source, truth)
    result = import_dataset(source, tmp_path / "out", ImportConfig(rate_hz=5))
    (skipped,) = result.skipped
    assert skipped.episode == "episode 1" and message in skipped.problem and result.exit_code == 1
    same(tmp_path / "out", whole, ["episode 0", "episode 2"])


def test_states_can_be_left_out(tmp_path, truth):
    source = tmp_path / "raw"
    broken(lambda group, folder: group[1].pop("robot_state"))(source, truth)
    assert import_dataset(source, tmp_path / "out", ImportConfig(rate_hz=5, options={"state": False})).skipped == ()
    assert open_dataset(tmp_path / "out").spec.state == ()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[", "manifest.json: cannot be read (Expecting value"),
        ('{"frames": []}', "manifest.json holds an object with frames; expected a list of entries"),
        ("3", "manifest.json holds int; expected a list of entries"),
        ("[]", "no episode of raw can be imported: it has none"),
        ("[3]", "entry 0 is int; expected an object with image_path, instruction and action"),
    ],
)
def test_an_invalid_manifest_is_refused(tmp_path, content, message):
    source = tmp_path / "raw"
    source.mkdir()
    (source / "manifest.json").write_text(content)
    with pytest.raises(DataError) as raised:
        import_dataset(source, tmp_path / "out", ImportConfig(rate_hz=5))
    assert message in str(raised.value)
    assert not (tmp_path / "out").exists()
