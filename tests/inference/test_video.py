"""Videos in and out. Webcams are stood in for by FFmpeg's own test image."""

import re
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from toy import write_clip

from kaseg import KASegConfig, KASegImageProcessor, KASegModel
from kaseg.inference import Predictor, video
from kaseg.inference.video import frame_count, is_video, predict_video, pyav

av = pytest.importorskip("av")


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    model = KASegModel(KASegConfig(backbone="mobilenetv2_035", output_stride=32, num_labels=5))
    return Predictor(model, KASegImageProcessor())


def write_video(path: Path, height: int = 48, width: int = 64, frames: int = 7) -> list[np.ndarray]:
    """Lossless; the frames come at uneven times."""
    container = av.open(str(path), "w")
    stream = container.add_stream("ffv1", rate=10)
    stream.height, stream.width, stream.pix_fmt = height, width, "bgr0"
    stream.codec_context.time_base = Fraction(1, 1000)
    generator = np.random.default_rng(0)
    written = []
    for index in range(frames):
        coarse = generator.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
        written.append(np.asarray(Image.fromarray(coarse).resize((width, height))))
        frame = av.VideoFrame.from_ndarray(written[-1], format="rgb24").reformat(format="bgr0")
        frame.pts, frame.time_base = 500 + 100 * index + 30 * (index % 2), Fraction(1, 1000)
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))
    container.close()
    return written


def read_video(path: Path, layout: str) -> tuple[list[np.ndarray], list[float]]:
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    return [frame.to_ndarray(format=layout) for frame in frames], [frame.time for frame in frames]


def test_masks_are_lossless_and_keep_order_and_times(predictor: Predictor, tmp_path: Path) -> None:
    frames = write_video(tmp_path / "street.mkv")
    masks = list(predict_video(predictor, str(tmp_path / "street.mkv"), tmp_path / "out"))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["street_mask.mkv", "street_overlay.mp4"]
    stored, times = read_video(tmp_path / "out/street_mask.mkv", "gray")
    assert len(stored) == len(masks) == 7
    for frame, mask, read in zip(frames, masks, stored, strict=True):
        np.testing.assert_array_equal(mask, predictor.predict([Image.fromarray(frame)])[0])
        np.testing.assert_array_equal(mask, read)
    np.testing.assert_allclose(times, [0.1 * index + 0.03 * (index % 2) for index in range(7)], atol=2e-3)
    overlays, times = read_video(tmp_path / "out/street_overlay.mp4", "rgb24")
    assert frame_count(str(tmp_path / "out/street_overlay.mp4")) == 7
    assert overlays[0].shape == (48, 64, 3) and len(overlays) == 7
    np.testing.assert_allclose(times, [0.1 * index + 0.03 * (index % 2) for index in range(7)], atol=2e-3)


def test_a_name_with_a_colon(predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_video(tmp_path / "12:30.mkv", frames=2)
    assert len(list(predict_video(predictor, "12:30.mkv", tmp_path / "out"))) == 2


def test_odd_sizes_and_masks_alone(predictor: Predictor, tmp_path: Path) -> None:
    write_video(tmp_path / "odd.mkv", 47, 65, frames=2)
    masks = list(predict_video(predictor, str(tmp_path / "odd.mkv"), tmp_path / "a"))
    assert masks[0].shape == (47, 65)
    assert read_video(tmp_path / "a/odd_overlay.mp4", "rgb24")[0][0].shape == (48, 66, 3)
    assert len(list(predict_video(predictor, str(tmp_path / "odd.mkv"), tmp_path / "b", overlay=False))) == 2
    assert [path.name for path in (tmp_path / "b").iterdir()] == ["odd_mask.mkv"]


def test_a_webcam_ends_when_the_iterator_is_closed(predictor, tmp_path, monkeypatch):
    monkeypatch.setitem(video._CAMERAS, sys.platform, ("lavfi", "testsrc=size=64x48:rate=10,trim=start_frame={}", {}))
    masks = predict_video(predictor, "webcam:0", tmp_path)
    for _ in range(3):
        next(masks)
    masks.close()  # type: ignore[attr-defined]
    assert len(read_video(tmp_path / "webcam0_mask.mkv", "gray")[0]) == 3
    assert len(list(predict_video(predictor, "webcam:1", tmp_path, max_frames=2))) == 2
    assert len(read_video(tmp_path / "webcam1_overlay.mp4", "rgb24")[0]) == 2
    assert frame_count("webcam:0") is None


def test_a_camera_that_has_no_frame_yet_is_asked_again(predictor, tmp_path, monkeypatch):
    class Slow:
        """A container whose decoder is not ready every other time, as avfoundation's."""

        def __init__(self, container) -> None:
            self.container, self.calls = container, 0

        def __enter__(self):
            return self

        def __exit__(self, *error) -> None:
            self.container.close()

        @property
        def streams(self):
            return self.container.streams

        def demux(self, *streams):
            for packet in self.container.demux(*streams):
                self.calls += 1
                if self.calls % 2:
                    raise BlockingIOError(11, "Resource temporarily unavailable")
                yield packet

    monkeypatch.setitem(video._CAMERAS, sys.platform, ("lavfi", "testsrc=size=64x48:rate={}", {}))
    opened = video._open("webcam:10")
    monkeypatch.setattr(video, "_open", lambda source: Slow(opened))
    assert len(list(predict_video(predictor, "webcam:10", tmp_path, max_frames=3))) == 3
    assert len(read_video(tmp_path / "webcam10_mask.mkv", "gray")[0]) == 3


def test_cameras_by_number_and_by_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(pyav(), "open", lambda file, format, options: asked.append((file, format, options)))
    for platform, source in (("linux", "0"), ("linux", "/dev/video2"), ("darwin", "1"), ("win32", "HD Camera")):
        monkeypatch.setattr(sys, "platform", platform)
        video._open(f"webcam:{source}")
    assert asked == [
        ("/dev/video0", "v4l2", {}),
        ("/dev/video2", "v4l2", {}),
        ("1", "avfoundation", {"framerate": "30"}),
        ("video=HD Camera", "dshow", {}),
    ]


def test_a_damaged_video_names_itself_and_leaves_nothing(predictor: Predictor, tmp_path: Path) -> None:
    (tmp_path / "no.mp4").write_bytes(b"no video at all" * 99)
    with pytest.raises(ValueError, match="no.mp4 cannot be opened"):
        list(predict_video(predictor, str(tmp_path / "no.mp4"), tmp_path / "out"))
    with pytest.raises(FileNotFoundError, match="missing.mp4"):
        predict_video(predictor, str(tmp_path / "missing.mp4"), tmp_path / "out")
    write_video(tmp_path / "x.mkv", frames=30)
    masks = predict_video(predictor, str(tmp_path / "x.mkv"), tmp_path / "out")
    next(masks)
    masks.close()  # type: ignore[attr-defined]
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def write_long(path: Path, codec: str, audio_seconds: float = 0.0, hidden: int = 0, **options: str) -> None:
    """Nine seconds at 10 frames per second. A key frame each, so that a cut file can be decoded up to the cut."""
    generator = np.random.default_rng(0)
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec, rate=10, options={"g": "1", "bf": "0"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        sound = container.add_stream("aac", rate=16000, layout="mono") if audio_seconds else None
        for index in range(max(90, round(10 * audio_seconds))):
            if index < 90:
                pixels = generator.integers(0, 256, (48, 64, 3), dtype=np.uint8)
                frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
                frame.pts, frame.time_base = index - hidden, Fraction(1, 10)
                container.mux(stream.encode(frame))
            if sound is not None and index < 10 * audio_seconds:
                samples = generator.normal(size=(1, 1600)).astype(np.float32) / 100
                heard = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
                heard.sample_rate, heard.pts, heard.time_base = 16000, 1600 * index, Fraction(1, 16000)
                container.mux(sound.encode(heard))
        for one in filter(None, (stream, sound)):
            container.mux(one.encode(None))


COUNTS, LASTS = r"has 90 frames", r"lasts 9.0 seconds, which would be about 90 frames"
# What the container says of a file that is cut off; None if it says nothing.
KINDS = {
    "a.mp4": ("mpeg4", {"movflags": "faststart"}, COUNTS),
    "a.mov": ("mpeg4", {"movflags": "faststart"}, COUNTS),
    "a.avi": ("mpeg4", {}, COUNTS),
    "fragments.mp4": ("mpeg4", {"movflags": "frag_keyframe+empty_moov"}, None),
    "a.mkv": ("mpeg4", {}, LASTS),
    "a.webm": ("libvpx", {}, LASTS),
    "a.flv": ("flv", {}, LASTS),
    "a.ts": ("mpeg2video", {}, None),
    "a.mpg": ("mpeg2video", {}, None),
    "a.wmv": ("wmv2", {}, None),
}


WITHOUT_AAC = (".avi", ".webm", ".ts", ".mpg", ".wmv")


@pytest.mark.parametrize(
    ("name", "audio_seconds"),
    [(name, length) for name in KINDS for length in (0, 9, 14) if not (length and name.endswith(WITHOUT_AAC))],
)
def test_a_video_that_is_cut_off_is_warned_about(name: str, audio_seconds: int, tmp_path: Path, caplog) -> None:
    codec, options, says = KINDS[name]
    whole = tmp_path / name
    write_long(whole, codec, audio_seconds, **options)

    def frames(path: Path) -> int:
        caplog.clear()
        with video._open(str(path)) as container:
            return sum(1 for _ in video._frames(container, str(path)))

    assert frames(whole) == 90 and not caplog.records
    cut = tmp_path / f"cut_{name}"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size * 6 // 10])
    count = frames(cut)
    assert 30 < count < 88
    if says is None:
        assert not caplog.records
        return
    if audio_seconds:  # its last packet may be longer
        says = says.replace("9.0", rf"{audio_seconds}\.\d").replace("about 90", rf"about {audio_seconds}\d")
    assert re.search(rf"cut_{name}: its container says that it {says}, but {count} could be decoded: it", caplog.text)


@pytest.mark.parametrize("audio_seconds", [0, 9], ids="sound-{}".format)
def test_frames_that_an_edit_list_hides_are_not_missed(audio_seconds: int, tmp_path: Path, caplog) -> None:
    """As in videos that were trimmed on a phone: the container counts frames that are not to be shown."""
    path = tmp_path / "trimmed.mp4"
    write_long(
        path, "mpeg4", audio_seconds, hidden=20, movflags="faststart", use_editlist="1", avoid_negative_ts="disabled"
    )
    with video._open(str(path)) as container:
        assert container.streams.video[0].frames == 90
        assert sum(1 for _ in video._frames(container, str(path))) == 70
    assert not caplog.records
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with video._open(str(path)) as container:
        count = sum(1 for _ in video._frames(container, str(path)))
    assert count < 50 and f"has 90 frames, but {count} could be decoded" in caplog.text


def test_a_video_that_is_cut_off_is_segmented_as_far_as_it_goes(predictor, tmp_path: Path, caplog) -> None:
    write_long(tmp_path / "whole.mp4", "mpeg4", movflags="faststart")
    cut = tmp_path / "cut.mp4"
    cut.write_bytes((tmp_path / "whole.mp4").read_bytes()[: (tmp_path / "whole.mp4").stat().st_size // 4])
    assert len(list(predict_video(predictor, str(cut), tmp_path / "a", max_frames=3))) == 3
    assert not caplog.records  # it was not read to its end
    masks = list(predict_video(predictor, str(cut), tmp_path / "b"))
    assert f"{cut}: its container says that it has 90 frames, but {len(masks)} could be decoded" in caplog.text
    assert len(read_video(tmp_path / "b/cut_mask.mkv", "gray")[0]) == len(masks) < 40


def test_what_is_a_video() -> None:
    assert is_video("a/b.MP4") and is_video("webcam:0") and not is_video("a.png") and not is_video("folder")


def write_noise(path: Path, codec: str, height: int, width: int) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (30, height, width, 3), dtype=np.uint8)
    write_clip(path, list(frames), codec, rate=25)


def test_playlists_that_name_other_files_are_not_followed(predictor: Predictor, tmp_path: Path) -> None:
    """What a stranger may send a server to have it read its own files."""
    write_noise(tmp_path / "secret.ts", "mpeg2video", 64, 64)
    for name, text in (
        ("clip.m3u8", f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{tmp_path}/secret.ts\n#EXT-X-ENDLIST\n"),
        ("clip.mp4", "ffconcat version 1.0\nfile secret.ts\n"),
    ):
        file = tmp_path / name
        file.write_text(text)
        with pytest.raises(ValueError, match=f"{name} cannot be opened as a video: .*playlists"):
            list(predict_video(predictor, str(file), tmp_path / "out"))
    # The file itself is a video.
    assert len(list(predict_video(predictor, str(tmp_path / "secret.ts"), tmp_path / "out", max_frames=2))) == 2


@pytest.mark.parametrize(
    ("suffix", "codec"),
    [(".avi", "mpeg4"), (".m4v", "mpeg4"), (".mkv", "mpeg4"), (".mov", "mpeg4"), (".mp4", "mpeg4"), (".webm", "vp8")]
    + [(suffix, "mpeg2video") for suffix in (".mpeg", ".mpg", ".ts")]
    + [(".wmv", "wmv2")],
)
def test_every_kind_of_video_opens(suffix: str, codec: str, tmp_path: Path) -> None:
    assert suffix in video.VIDEO_SUFFIXES
    codec = "libvpx" if codec == "vp8" and "libvpx" in av.codecs_available else codec
    file = tmp_path / f"clip{suffix}"
    write_noise(file, codec, 48, 64)
    frame_count(str(file))
