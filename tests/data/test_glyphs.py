import numpy as np
import pytest

from weightgen import seeds
from weightgen.data import glyphs
from weightgen.data.glyphs import render_glyphs
from weightgen.data.labelled import class_names, data_fingerprint
from weightgen.data.pictures import decoded
from weightgen.errors import InputError


def pixels(dataset, label):
    """All images of one class: uint8 [images height width]."""
    per_class = dataset.num_rows // len(class_names(dataset))
    return np.stack([np.asarray(image) for image in shown(dataset)[label * per_class : (label + 1) * per_class]])


def shown(dataset):
    return [decoded(row["bytes"], "glyph") for row in dataset["image"]]


def test_columns_sizes_and_names():
    dataset = render_glyphs(seed=0, classes=3, images_per_class=17, size=20)
    assert dataset.column_names == ["image", "label"]
    assert class_names(dataset)[:2] == ("U+0024 DOLLAR SIGN", "U+002B PLUS SIGN")
    assert list(dataset["label"]) == [0] * 17 + [1] * 17 + [2] * 17
    assert {(image.mode, image.size) for image in shown(dataset)} == {("L", (20, 20))}


def test_dark_ink_on_white_paper():
    images = pixels(render_glyphs(seed=0, classes=2, images_per_class=9), 0)
    assert images.min() < 60 and images.max() == 255
    assert 0.02 < (images < 128).mean() < 0.5


def test_every_image_of_a_class_differs():
    images = pixels(render_glyphs(seed=0, classes=2, images_per_class=30), 1)
    assert len({image.tobytes() for image in images}) == 30


def test_seed_decides_everything():
    settings = {"classes": 3, "images_per_class": 4}
    first = data_fingerprint(render_glyphs(seed=5, **settings))
    assert data_fingerprint(render_glyphs(seed=6, **settings)) != first


def test_same_seed_renders_the_same_without_the_cache(tmp_path, monkeypatch):
    settings = {"seed": 5, "classes": 3, "images_per_class": 4}
    first = data_fingerprint(render_glyphs(**settings))
    monkeypatch.setenv("WEIGHTGEN_CACHE", str(tmp_path))
    assert data_fingerprint(render_glyphs(**settings)) == first


def test_a_class_does_not_depend_on_the_others():
    few, more = (render_glyphs(seed=1, classes=n, images_per_class=6) for n in (2, 7))
    assert (pixels(few, 1) == pixels(more, 1)).all()


def test_characters_that_look_alike_count_once(monkeypatch):
    wanted = [0x41, 0x391, 0x394, 0x410]  # A, Greek A, Delta, Cyrillic A
    coverage = glyphs._coverage()
    monkeypatch.setattr(glyphs, "_coverage", lambda: {code: coverage[code] for code in wanted})
    names = [name for name, _ in glyphs._characters()]
    assert names == ["U+0041 LATIN CAPITAL LETTER A", "U+0394 GREEK CAPITAL LETTER DELTA"]


def test_motions_stay_within_their_bounds():
    motions = glyphs._random_motions(4001, seeds.generator(0, "test"))
    across, zoom = motions[:, :, 2], motions[:, :, :2].det().rsqrt()  # the mean zoom of both axes
    assert 0.3 < across.abs().max() <= 2 * 5 / 32
    assert 0.6 <= zoom.min() < 0.63 and 1.37 < zoom.max() <= 1.4


def test_sampling_without_motion_keeps_the_drawing():
    _, drawings = next(glyphs._characters())
    identity = glyphs._random_motions(1, seeds.generator(0)) * 0
    identity[:, 0, 0] = identity[:, 1, 1] = 1
    halved = drawings[:1].float().unfold(1, 2, 2).unfold(2, 2, 2).mean((-1, -2))
    assert (255 - glyphs._moved(drawings[:1], identity, 32).float() - halved).abs().max() <= 1


def test_second_call_reads_the_cache(monkeypatch, cache):
    settings = {"seed": 0, "classes": 2, "images_per_class": 3}
    first = data_fingerprint(render_glyphs(**settings))
    monkeypatch.setattr(glyphs, "_characters", lambda: pytest.fail("rendered again"))
    assert data_fingerprint(render_glyphs(**settings)) == first
    assert len(list(cache.rglob("*.arrow"))) == 1 and len(list((cache / "glyphs").iterdir())) == 1


def test_other_settings_are_other_data(cache):
    for settings in ({"classes": 2}, {"classes": 3}, {"classes": 2, "size": 12}):
        render_glyphs(seed=0, images_per_class=3, **settings)
    assert len(list(cache.rglob("*.arrow"))) == 3


def test_interrupted_rendering_leaves_nothing(monkeypatch, cache):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(glyphs, "_moved", stop)
    with pytest.raises(KeyboardInterrupt):
        render_glyphs(seed=0, classes=2, images_per_class=3)
    assert not [path for path in cache.rglob("*") if path.is_file()]


def test_progress_ends_at_the_total():
    calls = []
    render_glyphs(seed=0, classes=70, images_per_class=1, progress=lambda *call: calls.append(call))
    assert [done for _, done, _ in calls] == [64, 70] and {total for _, _, total in calls} == {70}


@pytest.mark.parametrize("wrong", [{"images_per_class": 0}, {"size": -1}, {"classes": 0}])
def test_numbers_below_one_are_refused(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        render_glyphs(seed=0, **{"classes": 2, **wrong})


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path, monkeypatch, caplog):
    there = render_glyphs(seed=0, classes=2, images_per_class=1)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("WEIGHTGEN_CACHE", str(tmp_path / "file"))
    assert render_glyphs(seed=0, classes=2, images_per_class=1)["image"][:] == there["image"][:]
    assert f"{tmp_path / 'file'}: cannot be used as a cache" in caplog.text


@pytest.mark.slow
def test_the_whole_set():
    dataset = render_glyphs(seed=0, images_per_class=1)
    assert 2400 < len(class_names(dataset)) < 2700
    assert min(image.getextrema()[0] for image in shown(dataset)) < 200
    assert all(image.getextrema()[0] < 240 for image in shown(dataset))
