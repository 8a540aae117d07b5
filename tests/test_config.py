"""Settings come from the environment, whole and checked, or not at all."""

import json
import re
from pathlib import Path

import pytest

from config import ROOT, ConfigError, Settings, on_runpod


def test_an_empty_environment_gives_the_defaults() -> None:
    settings = Settings.from_env({})
    assert settings.vibevoice_volume == ROOT / "volume"
    assert settings.audio_prompts_dir == ROOT / "volume" / "demo" / "voices"
    assert settings.output_dir == ROOT / "volume" / "output"
    assert (settings.max_text_length, settings.default_sample_rate) == (100_000, 24000)
    assert (settings.max_chunk_chars, settings.min_last_chunk_chars) == (1000, 150)
    assert (settings.chunk_silence_ms, settings.paragraph_silence_ms) == (40, 600)
    assert (settings.default_speaker, settings.default_cfg_scale) == ("Alice", 1.3)
    assert (settings.engine, settings.target_lufs) == ("auto", -16)
    assert (settings.save_output, settings.output_retention_days) == (True, 2)
    assert settings.model_path == "vibevoice/VibeVoice-7B"


def test_variables_are_read_and_empty_ones_are_unset() -> None:
    settings = Settings.from_env(
        {"MAX_TEXT_LENGTH": "99", "SAVE_OUTPUT": "false", "ENGINE": " ", "VIBEVOICE_VOLUME": "/v"}
    )
    assert (settings.max_text_length, settings.save_output, settings.engine) == (99, False, "auto")
    assert settings.output_dir == Path("/v/output")


def test_a_folder_below_the_home_of_nobody_is_a_problem_in_words() -> None:
    with pytest.raises(ConfigError, match=r"VIBEVOICE_VOLUME: .*a user that this machine has not"):
        Settings.from_env({"VIBEVOICE_VOLUME": "~:/volume"})  # no user's name holds a colon


def test_every_problem_is_listed_at_once_without_the_secret() -> None:
    env = {"MAX_TEXT_LENGTH": "many", "ENGINE": "sox", "TARGET_LUFS": "5"}
    env["HF_TOKEN"] = "hush"
    with pytest.raises(ConfigError) as caught:
        Settings.from_env(env)
    lines = str(caught.value).splitlines()
    assert [line.split(":")[0] for line in lines] == ["ENGINE", "MAX_TEXT_LENGTH", "TARGET_LUFS"]
    assert "hush" not in str(caught.value)
    assert "hush" not in repr(Settings.from_env({"HF_TOKEN": "hush"}))


S3 = {
    "S3_ACCESS_KEY_ID": "key",
    "S3_SECRET_ACCESS_KEY": "hush",
    "S3_BUCKET_NAME": "bucket",
}


@pytest.mark.parametrize("missing", S3)
def test_a_bucket_that_is_half_set_is_said_at_the_start(missing: str) -> None:
    env = {name: value for name, value in S3.items() if name != missing}
    with pytest.raises(ConfigError, match=f"S3 is half set: {missing} must be given too"):
        Settings.from_env(env)


def test_a_bucket_that_cannot_be_is_said_without_the_secret() -> None:
    with pytest.raises(ConfigError) as caught:
        Settings.from_env({**S3, "S3_ENDPOINT_URL": "ftp://example.com"})
    assert "endpoint_url" in str(caught.value)
    assert "hush" not in str(caught.value) + repr(Settings.from_env(S3))


def test_runpods_names_for_the_bucket_are_read_too() -> None:
    bucket = Settings.from_env(
        {
            "BUCKET_ENDPOINT_URL": "https://s3.example.com",
            "BUCKET_ACCESS_KEY_ID": "key",
            "BUCKET_SECRET_ACCESS_KEY": "hush",
            "BUCKET_NAME": "bucket",
            "S3_PREFIX": "speech",
        }
    ).bucket
    assert bucket is not None
    assert (bucket.endpoint_url, bucket.name) == ("https://s3.example.com", "bucket")
    assert (bucket.prefix, bucket.secret_access_key) == ("speech", "hush")
    assert Settings.from_env({}).bucket is None


@pytest.mark.parametrize(
    ("endpoint", "name", "address"),
    [
        ("https://speech.s3.eu-west-1.amazonaws.com", "speech",
         ("https://s3.eu-west-1.amazonaws.com", "virtual", "eu-west-1")),
        ("https://s3.eu-west-1.amazonaws.com/speech/", "speech",
         ("https://s3.eu-west-1.amazonaws.com", "virtual", "eu-west-1")),
        ("https://speech.nyc3.digitaloceanspaces.com", "speech",
         ("https://nyc3.digitaloceanspaces.com", "virtual", "us-east-1")),
        ("https://my.speech.s3.us-west-004.backblazeb2.com", "my.speech",
         ("https://s3.us-west-004.backblazeb2.com", "virtual", "us-west-004")),
        (f"https://{'a' * 32}.r2.cloudflarestorage.com/speech", "speech",
         (f"https://{'a' * 32}.r2.cloudflarestorage.com", "path", "auto")),
        (f"https://speech.{'a' * 32}.eu.r2.cloudflarestorage.com", "speech",
         (f"https://{'a' * 32}.eu.r2.cloudflarestorage.com", "virtual", "auto")),
        ("https://storage.googleapis.com/speech", "speech",
         ("https://storage.googleapis.com", "path", "auto")),
        ("http://127.0.0.1:9000/speech", "speech", ("http://127.0.0.1:9000", "path", "us-east-1")),
    ],
)  # fmt: skip
def test_runpods_three_variables_are_enough_where_the_endpoint_names_the_bucket(
    endpoint: str, name: str, address: tuple[str, str, str]
) -> None:
    keys = {"BUCKET_ACCESS_KEY_ID": "key", "BUCKET_SECRET_ACCESS_KEY": "hush"}
    bucket = Settings.from_env({**keys, "BUCKET_ENDPOINT_URL": endpoint}).bucket
    assert bucket is not None
    assert (bucket.name, bucket.address()) == (name, address)


@pytest.mark.parametrize(
    "endpoint",
    ["https://s3.amazonaws.com", "https://nyc3.digitaloceanspaces.com", "http://127.0.0.1:9000/",
     "https://minio.example.com/a/b", f"https://{'a' * 32}.r2.cloudflarestorage.com"],
)  # fmt: skip
def test_an_endpoint_that_names_no_bucket_needs_its_name(endpoint: str) -> None:
    keys = {"BUCKET_ACCESS_KEY_ID": "key", "BUCKET_SECRET_ACCESS_KEY": "hush"}
    with pytest.raises(ConfigError, match="S3 is half set: S3_BUCKET_NAME must be given too"):
        Settings.from_env({**keys, "BUCKET_ENDPOINT_URL": endpoint})


def test_our_name_of_a_variable_is_read_before_runpods() -> None:
    assert Settings.from_env({**S3, "BUCKET_NAME": "another"}).s3_bucket_name == "bucket"


def test_a_variable_is_read_as_bash_reads_it_in_capitals() -> None:
    assert Settings.from_env({"port": "1", "Max_Streams": "nonsense"}).port == 8000


def test_a_problem_says_what_the_variable_takes() -> None:
    with pytest.raises(ConfigError) as caught:
        Settings.from_env({"MAX_SLOTS": "65"})
    assert str(caught.value) == (
        "MAX_SLOTS: Input should be less than or equal to 64 "
        "(Chunks of text that are generated at once, from 1, up to 64)"
    )


def test_a_minimum_that_no_chunk_can_meet_is_refused() -> None:
    with pytest.raises(ConfigError, match="MIN_LAST_CHUNK_CHARS must be at most half"):
        Settings.from_env({"MAX_CHUNK_CHARS": "200", "MIN_LAST_CHUNK_CHARS": "101"})


@pytest.mark.parametrize(("most", "least"), [("100", 50), ("299", 149), ("2000", 150)])
def test_small_chunks_can_be_set_alone(most: str, least: int) -> None:
    assert Settings.from_env({"MAX_CHUNK_CHARS": most}).min_last_chunk_chars == least


def test_on_runpod_the_volume_is_the_network_volume() -> None:
    env = {"RUNPOD_POD_ID": "pod"}
    assert on_runpod(env)
    assert Settings.from_env(env).vibevoice_volume == Path("/runpod-volume/vibevoice")
    assert Settings.from_env({**env, "VIBEVOICE_VOLUME": "/v"}).vibevoice_volume == Path("/v")


def test_the_readme_lists_every_setting_with_its_default() -> None:
    readme = (ROOT / "README.md").read_text()
    rows = re.findall(r"^\| `([A-Z0-9_]+)` \| (.*?) \| .* \|$", readme, re.M)
    documented = {name: default.strip("`") for name, default in rows}
    settings = Settings.from_env({})
    expected = {}
    for name in Settings.model_fields:
        value = getattr(settings, name)
        shown = str(value).lower() if isinstance(value, bool) else str(value)
        expected[name.upper()] = "" if value in (None, (), {}) else shown.removesuffix(".0")
    expected["VIBEVOICE_VOLUME"] = "/runpod-volume/vibevoice"
    assert documented == expected


def test_the_hub_offers_settings_and_their_defaults() -> None:
    hub = json.loads((ROOT / ".runpod" / "hub.json").read_text())
    given = {each["key"]: str(each["input"]["default"]) for each in hub["config"]["env"]}
    assert {name.lower() for name in given} <= set(Settings.model_fields)
    usual = Settings.from_env({}).model_copy(update={"max_concurrency": 8})
    assert Settings.from_env(given) == usual
