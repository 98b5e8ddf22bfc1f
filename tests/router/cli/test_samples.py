"""The sample pictures of the package: there, small, and no larger than promised."""

import pytest

from router.cli.pictures import sniff
from router.cli.samples import default_sample, load_samples, samples_dir


def test_every_shipped_sample_has_its_pictures_and_there_is_one_for_each_engine():
    samples = load_samples()
    assert len({sample.name for sample in samples}) == len(samples) >= 2
    for sample in samples:
        assert sample.question
        assert sample.answer
        assert all(sniff(picture.read_bytes()) == "image/png" for picture in sample.pictures)
    # Chinese about one picture is for GLM, English about two for Owl2
    assert any(sample.language == "zh" and len(sample.pictures) == 1 for sample in samples)
    assert any(sample.language == "en" and len(sample.pictures) == 2 for sample in samples)


def test_nothing_lies_beside_the_samples_and_all_are_small():
    named = {picture for sample in load_samples() for picture in sample.pictures}
    assert set(samples_dir().glob("*.png")) == named
    assert sum(picture.stat().st_size for picture in named) < 30_000


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_default_sample_speaks_the_users_language(language):
    sample = default_sample(language)
    assert sample is not None
    assert sample.language == language


def test_no_samples_are_no_error(tmp_path):
    assert load_samples(tmp_path) == []
    assert default_sample("en", tmp_path) is None
