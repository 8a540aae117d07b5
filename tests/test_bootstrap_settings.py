"""bootstrap.sh and config.py read a variable alike, and refuse what no start could work with."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from config import ConfigError, Settings, trimmed
from tests.bootstrap_site import PYTHON, ROOT

pytestmark = pytest.mark.process


def bash(code: str, **env: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["bash", "-c", f"source ./bootstrap.sh; {code}"],
        cwd=ROOT, env={"PATH": os.environ["PATH"], "PYTHON": PYTHON, **env},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


VALUES = [
    "plain", " plain", "plain\n", "plain\r\n", "\t plain \v\f", '"plain"', "'plain'", '" plain "',
    " 'plain'\r\n", '"', "''", '""', " ", "\n", '"plain\'', '"a","b"', "'a' 'b'", "two words",
    '"two\nlines"', "a\tb", "ä ", "\N{NO-BREAK SPACE}plain", "\"it's\"", "''plain''", "*", "$HOME",
    "\\n", "[a]", "!x", "-n",
]  # fmt: skip


def test_bash_and_python_trim_alike() -> None:
    names = [f"VIBEVOICE_T{number}" for number in range(len(VALUES))]
    env = dict(zip(names, VALUES, strict=True))
    run = bash('trim "${!VIBEVOICE_@}"; for name; do printf "%s\\0" "${!name}"; done', **env)
    assert run.returncode == 0, run.stderr
    code = 'trim "${!VIBEVOICE_@}"; for name in ' + " ".join(names)
    run = bash(code + '; do printf "%s\\0" "${!name}"; done', **env, LC_ALL="C.UTF-8")
    assert run.stdout.split("\0")[:-1] == [trimmed(value) for value in VALUES]
    assert run.stderr == ""


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("VIBEVOICE_VOLUME", ["/v", " /v\n", '"/v"', "'/v/'", "/v//", "~/v", "~", "~root/v"]),
        ("VIBEVOICE_VOLUME", ["relative", "./relative/", '" relative "', "a~b"]),
        ("MODEL_PATH", ["a/b", "a/b\r\n", "'a/b'", "", "  "]),
        ("MODEL_REVISION", ["v1", "v1 ", '"v1"']),
        ("VIBEVOICE_CODE", ["~/code ", '"/code/"']),
        ("HF_HOME", ["~/hf", "/hf\n"]),
        ("LOG_LEVEL", ["debug", "Warn", "WARNING\n", "'info'"]),
        ("RUNPOD_LOG_LEVEL", ["debug", "Warn", "WARNING\n", "trace"]),
    ],
)
def test_a_setting_means_the_same_to_bootstrap_and_to_the_worker(
    name: str, values: list[str]
) -> None:
    for value in values:
        run = bash(f'read_settings; printf %s "${{{name}}}"', **{name: value, "HOME": "/home/me"})
        assert run.returncode == 0, run.stderr
        field = name.lower()
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("HOME", "/home/me")
            patch.chdir(ROOT)
            direct = getattr(Settings.from_env({name: value}), field)
            handed_on = getattr(Settings.from_env({name: run.stdout}), field)
        assert handed_on == direct
        if direct != getattr(Settings.from_env({}), field) and "LEVEL" not in name:
            assert os.path.normpath(run.stdout) == os.path.normpath(str(direct))


@pytest.mark.parametrize("value", ["~nobody-here/v", "~-/v", "~+", "~1/v", "~$(id)", "~a;id"])
def test_the_home_of_nobody_is_refused_by_both(value: str) -> None:
    sentence = "names the home of a user that this machine has not"
    run = bash("read_settings", VIBEVOICE_VOLUME=value, OLDPWD="/")
    assert (run.returncode, run.stdout) == (1, "")
    assert run.stderr == f"bootstrap: VIBEVOICE_VOLUME: {sentence}\n"
    with pytest.raises(ConfigError, match=f"VIBEVOICE_VOLUME: {sentence}"):
        Settings.from_env({"VIBEVOICE_VOLUME": value})


def test_the_mode_the_engine_and_the_model_are_trimmed_too() -> None:
    env = {"MODE": " http\n", "ENGINE": "'espeak'", "SKIP_MODEL_DOWNLOAD": '"1"'}
    run = bash('read_settings; echo "$door $model_wanted $ENGINE"', **env)
    assert run.stdout == "server.py none espeak\n"
    assert Settings.from_env(env).engine == "espeak"


@pytest.mark.parametrize(
    "name", ["HF_TOKEN", "API_KEYS", "S3_SECRET_ACCESS_KEY", "BUCKET_SECRET_ACCESS_KEY", "MODE"]
)
def test_a_secret_that_runpod_did_not_put_in_is_refused_by_name(name: str) -> None:
    value = "{{ RUNPOD_SECRET_my-key }}"
    sentence = f"{name}: RunPod has no secret 'my-key' to put here"
    run = bash("read_settings", **{name: value})
    assert run.returncode == 1
    assert run.stderr == f"bootstrap: {sentence}\n"
    with pytest.raises(ConfigError, match=sentence):
        Settings.from_env({name: f"Bearer {value}"})
    with pytest.raises(ConfigError, match="ANY_OTHER: RunPod has no secret 'x'"):
        Settings.from_env({"ANY_OTHER": "{{RUNPOD_SECRET_x}}"})


def test_quotes_around_keys_are_no_part_of_them() -> None:
    for given in ('"one,two"', "'one','two'", ' "one" , two \n', "one,two\r\n"):
        assert Settings.from_env({"API_KEYS": given}).keys == ("one", "two")


@pytest.mark.parametrize("name", ["LOG_LEVEL", "RUNPOD_LOG_LEVEL"])
def test_a_level_that_there_is_not_is_refused_with_those_that_there_are(name: str) -> None:
    run = bash("read_settings", **{name: "loud"})
    assert run.returncode == 1
    assert f"bootstrap: {name}: allowed: " in run.stderr
    with pytest.raises(ConfigError, match=rf"^{name}: Input should be .*'DEBUG'.* \(Level of the"):
        Settings.from_env({name: "loud"})


@pytest.mark.parametrize(
    ("door", "name"), [("handler", "RUNPOD_LOG_LEVEL"), ("server", "LOG_LEVEL")]
)
def test_a_door_ends_with_a_sentence_where_its_level_is_none(
    door: str, name: str, tmp_path: Path
) -> None:
    run = subprocess.run(
        [sys.executable, f"{door}.py"],
        cwd=ROOT, env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), name: "loud"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 1
    assert "Traceback" not in run.stderr
    assert f"cannot start:\n{name}: " in run.stderr
    assert "'DEBUG'" in run.stderr or "DEBUG, INFO" in run.stderr


@pytest.mark.parametrize("given", ['"debug"', " Warning\n"])
def test_the_sdk_gets_its_level_trimmed_too(given: str, tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-c", "import handler, os; print(os.environ['RUNPOD_LOG_LEVEL'])"],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "RUNPOD_LOG_LEVEL": given},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == ["DEBUG" if "debug" in given else "WARN"]


ELSEWHERE = [{"RUNPOD_POD_ID": "pod"}, {"RUNPOD_ENDPOINT_ID": "e"}, {"VIBEVOICE_IMAGE": "1"}]


@pytest.mark.parametrize("place", ELSEWHERE, ids=lambda place: next(iter(place)))
def test_a_server_that_nobody_could_call_is_refused(place: dict[str, str]) -> None:
    run = bash("read_settings; refuse_without_callers", MODE="http", **place)
    assert run.returncode == 1
    assert "give API_KEYS, or set ALLOW_ANONYMOUS=true" in run.stderr
    settings = Settings.from_env(place)
    with pytest.raises(ConfigError, match=r"API_KEYS: nobody could call this server: .*ANONYMOUS"):
        settings.check_reachable(place)


@pytest.mark.parametrize(
    "who",
    [{"API_KEYS": "k"}, {"ALLOW_ANONYMOUS": "true"}, {"ALLOW_ANONYMOUS": " Yes\n"},
     {"HOST": "127.0.0.1"}, {"MODE": "queue"}, {"RUNPOD_POD_ID": ""}],
    ids=str,
)  # fmt: skip
def test_a_server_that_somebody_can_call_is_not(who: dict[str, str]) -> None:
    env = {"MODE": "http", "RUNPOD_POD_ID": "pod"} | who
    run = bash("read_settings; refuse_without_callers", **env)
    assert (run.returncode, run.stderr) == (0, "")
    if env["MODE"] == "http":
        Settings.from_env(env).check_reachable(env)


def test_the_server_itself_refuses_too(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "server.py"],
        cwd=ROOT, env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "VIBEVOICE_IMAGE": "1"},
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert run.returncode == 1
    assert "The server cannot start:\nAPI_KEYS: nobody could call this server" in run.stderr


def test_the_image_says_that_it_is_one() -> None:
    assert "VIBEVOICE_IMAGE=1" in (ROOT / "Dockerfile").read_text()
