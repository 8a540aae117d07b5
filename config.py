"""Settings: read once from the environment, and checked before anything starts.

`Settings.from_env()` gives a complete, valid set, or raises `ConfigError` with all problems. White
space and quotes around a whole value are left out, and an empty variable counts as unset.
bootstrap.sh reads its variables by the same rule. Secrets are `SecretStr`, which prints as
asterisks.

A setting is one field. Its environment variable is the field's name in capitals.
"""

import ipaddress
import os
import re
from collections.abc import Callable, Mapping
from itertools import starmap
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import (
    AfterValidator,
    AliasChoices,
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, EnvSettingsSource, InitSettingsSource, NoDecode

from delivery.bucket import Bucket, bucket_in
from request.models import listed, pairs, preloaded

ROOT = Path(__file__).resolve().parent

_RUNPOD_MARKS = ("RUNPOD_POD_ID", "RUNPOD_ENDPOINT_ID", "RUNPOD_WEBHOOK_GET_JOB")
# Its load balancer cuts an answer off after 330 s, where an error can no longer be told.
_ON_RUNPOD = {
    "vibevoice_volume": "/runpod-volume/vibevoice",
    "port": "80",
    "max_request_sec": "325",
}
_SPACE = " \t\r\n\v\f"
_UNREPLACED = re.compile(r"\{\{\s*RUNPOD_SECRET_([\w.-]*)\s*\}\}")
_BOUNDS = {"ge": "from", "gt": "above", "le": "up to"}


class ConfigError(Exception):
    """The environment has invalid settings; the message has a line for each."""


def on_runpod(env: Mapping[str, str] | None = None) -> bool:
    """Whether this process is a RunPod worker, by the variables that RunPod sets."""
    return any((os.environ if env is None else env).get(name) for name in _RUNPOD_MARKS)


def trimmed(value: str) -> str:
    """A variable's value without white space and quotes around the whole."""
    value = value.strip(_SPACE)
    inner = value[1:-1]
    is_quoted = len(value) > 1 and value[0] == value[-1] in "\"'" and value[0] not in inner
    return inner.strip(_SPACE) if is_quoted else value


def is_loopback(host: str) -> bool:
    """Whether a host name or IP address is one of loopback."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _absolute(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return Path(value).expanduser().absolute()
    except RuntimeError:  # pydantic reports only ValueError
        raise ValueError("names the home of a user that this machine has not") from None


def _setting(default: Any, meaning: str, **bounds: Any) -> Any:
    allowed = (f", {word} {bounds[each]:,}" for each, word in _BOUNDS.items() if each in bounds)
    return Field(default, description=meaning + "".join(allowed), **bounds)


def _s3(name: str, runpods: str, meaning: str) -> Any:
    """A setting of the bucket, by our name `name`, else by that of RunPod's utilities."""
    return _setting(None, meaning, validation_alias=AliasChoices(name, runpods))


def _level(warning: str) -> Callable[[str], str]:
    """Takes a level in any case, and both names of a warning's."""

    def read(value: str) -> str:
        name = value.upper()
        return warning if name in ("WARN", "WARNING") else name

    return read


Folder = Annotated[Path, BeforeValidator(_absolute)]


Level = Annotated[
    Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"], BeforeValidator(_level("WARNING"))
]
RunPodLevel = Annotated[
    Literal["NOTSET", "TRACE", "DEBUG", "INFO", "WARN", "ERROR"], BeforeValidator(_level("WARN"))
]


def _listed(value: Any) -> Any:
    parts = map(trimmed, value.split(",")) if isinstance(value, str) else value
    return tuple(filter(None, parts))


Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_listed)]


class _Group(BaseSettings, frozen=True):
    """Settings that belong together."""


class Engines(_Group):
    """The models and how they run."""

    vibevoice_volume: Folder = _setting(
        ROOT / "volume", "Folder that outlives the worker: voices, outputs, models"
    )
    model_path: str = _setting("vibevoice/VibeVoice-7B", "Hub id or folder of the model")
    model_revision: str = _setting(
        "main", "Commit, branch or tag of a model from the hub", pattern=r"^\w[\w.-]*(/\w[\w.-]*)*$"
    )
    realtime_model_path: str = _setting(
        "microsoft/VibeVoice-Realtime-0.5B", "Hub id or folder of VibeVoice-Realtime"
    )
    realtime_put_offs: int = _setting(
        1, "How often an end that comes before its text is put off", ge=0, le=100
    )
    model_caches: str = _setting("", "Hub caches to look in besides, with colons between")
    vibevoice_code: Folder | None = _setting(
        None, "Folder of VibeVoice's code, if it is not `vibevoice/` on the volume"
    )
    preload_models: Annotated[tuple[str, ...], NoDecode, BeforeValidator(preloaded)] = _setting(
        (),
        "Models to load at the start, with commas between; `true` is the default one",
        validation_alias=AliasChoices("preload_models", "preload_model"),
    )
    hf_token: SecretStr | None = _setting(None, "Hugging Face token, for private models")
    hf_home: Folder | None = _setting(None, "Hugging Face home")
    hf_hub_cache: Folder | None = _setting(None, "Hugging Face download cache")
    engine: Literal["auto", "vibevoice", "realtime", "kokoro", "piper", "espeak", "upstream"] = (
        _setting("auto", "`auto`: VibeVoice on a GPU and on RunPod, else Kokoro")
    )
    models: Annotated[tuple[str, ...], NoDecode, BeforeValidator(listed)] = _setting(
        (), "Engines that requests may ask for as `model` beside ENGINE, with commas between"
    )
    model_aliases: Annotated[dict[str, str], NoDecode, BeforeValidator(pairs)] = _setting(
        {}, "Further names of models, as `name=model` with commas between"
    )
    model_ttl_sec: float = _setting(
        600, "Time after its last use at which a model is unloaded", gt=0, le=604_800
    )
    model_min_residency_sec: float = _setting(
        120, "Time after its load in which a model makes room for no other", ge=0, le=604_800
    )
    model_resident_cap: int = _setting(3, "Models that are loaded at once", ge=1, le=64)
    model_parallel_loads: int = _setting(1, "Models that load at the same time", ge=1, le=16)
    memory_limit_mb: int | None = _setting(
        None, "Host memory that the worker takes, if not all of it, in MiB", ge=64
    )
    vibevoice_runtime: Literal["fast", "reference"] = _setting(
        "fast", "`reference` runs upstream's own loop, one chunk at a time"
    )
    vibevoice_attention: Literal["sdpa", "flash"] | None = _setting(
        None, "Attention of VibeVoice, if not the faster that is right here"
    )
    vibevoice_graphs: Literal["on", "off"] = _setting("on", "`off`: frames without CUDA graphs")
    kokoro_model: Folder | None = _setting(None, "File of Kokoro's model, an .onnx of your own")
    kokoro_voices: Folder | None = _setting(None, "File of Kokoro's voices, an .npz of your own")
    cpu_threads: int | None = _setting(
        None, "Threads of a model on the CPU, if not 4 or all cores", ge=1, le=256
    )
    upstream_url: str | None = _setting(
        None,
        "Base address of a server with OpenAI's contract for speech",
        pattern=r"^https?://\S+$",
    )
    upstream_key: SecretStr | None = _setting(None, "Key for that server")
    upstream_models: Names = _setting((), "Its models, with commas between, its default first")
    upstream_voices: Names = _setting((), "Its voices, if not OpenAI's, with commas between")
    whisper_model: str | None = _setting(
        None, "Name or folder of a faster-whisper model, if not the packaged one"
    )
    max_slots: int | None = _setting(None, "Chunks of text that are generated at once", ge=1, le=64)
    gpu_usd_per_second: float | None = _setting(None, "Price of the GPU", gt=0, le=1)

    @field_validator("hf_token", "upstream_key")
    @classmethod
    def _token_fits_a_header(cls, token: SecretStr | None) -> SecretStr | None:
        # Else an HTTP library's error would quote the token.
        if token and not re.fullmatch("[!-~]+", token.get_secret_value()):
            raise ValueError("a token has no spaces, line ends or letters beyond ASCII")
        return token

    @model_validator(mode="after")
    def _models_are_known(self) -> Self:
        known = get_args(Engines.model_fields["engine"].annotation)[1:]
        if unknown := [name for name in self.models if name not in known]:
            raise ValueError(f"MODELS: {unknown[0]} is none of {', '.join(known)}")
        return self

    @property
    def most_memory_bytes(self) -> float | None:
        """MEMORY_LIMIT_MB in bytes."""
        return None if self.memory_limit_mb is None else self.memory_limit_mb * 2**20

    @property
    def further_hub_caches(self) -> tuple[Path, ...]:
        """The folders in MODEL_CACHES."""
        caches = filter(None, self.model_caches.split(":"))
        return tuple(_absolute(cache) for cache in caches)

    @property
    def engine_settings(self) -> dict[str, Any]:
        """This group as a dict, the argument of an engine's `create`."""
        names = (*Engines.model_fields, "further_hub_caches")
        return {name: getattr(self, name) for name in names}

    @property
    def recognizer_settings(self) -> dict[str, Any]:
        """The settings of recognisers."""
        names = ("whisper_model", "cpu_threads", "hf_token", "hf_hub_cache")
        return {name: getattr(self, name) for name in names}

    @property
    def audio_prompts_dir(self) -> Path:
        """The folder of the voices' recordings."""
        return self.vibevoice_volume / "demo" / "voices"

    @property
    def output_dir(self) -> Path:
        """The folder of the kept copies."""
        return self.vibevoice_volume / "output"


class Queue(_Group):
    """RunPod's jobs."""

    max_concurrency: int | None = _setting(None, "Jobs that the worker takes at once", ge=1, le=256)
    stream_jobs: bool = _setting(False, "Jobs may ask for `stream: true`; answers are lists then")
    save_output: bool = _setting(True, "Keep a copy of every answer in `output/`")
    output_retention_days: float = _setting(2, "Age at which a copy is removed", gt=0, le=3650)
    runpod_log_level: RunPodLevel = _setting("INFO", "Level of the log of jobs")


class Http(_Group):
    """`server.py`: address, access and limits."""

    log_level: Level = _setting("INFO", "Level of the log of `server.py`")
    host: Annotated[str, AfterValidator(lambda host: host.strip("[]"))] | None = _setting(
        None, "Address of `server.py`; without keys this machine's own"
    )
    port: int = _setting(8000, "Port of `server.py`; 80 on RunPod", ge=0, le=65_535)
    port_health: int | None = _setting(
        None, "A port of its own for `/ping`, in a thread of its own", ge=1, le=65_535
    )
    api_keys: SecretStr | None = _setting(None, "Keys of callers, with commas between")
    allow_anonymous: bool = _setting(False, "Without `API_KEYS`, serve more than this machine")
    public_lists: bool = _setting(False, "Lists of models and voices, less uploads, need no key")
    cors_origin: Annotated[str, AfterValidator(lambda site: site.rstrip("/"))] | None = _setting(
        None, "Web site whose pages may call `server.py`, or `*`"
    )
    openai_input_limit: int = _setting(
        4096, "Characters of an `input` over HTTP", ge=1, le=1_000_000
    )
    max_streams: int = _setting(32, "Answers that `server.py` speaks at once", ge=1, le=1024)
    max_queue: int = _setting(64, "Requests that wait for that; more are refused", ge=0, le=10_000)
    max_sessions: int = _setting(128, "WebSockets that may be open at once", ge=1, le=10_000)
    max_request_sec: float = _setting(600, "Longest time of an answer over HTTP", gt=0, le=86_400)
    session_idle_sec: float = _setting(
        60, "Silence at which a WebSocket is closed", gt=0, le=86_400
    )
    utterance_idle_sec: float = _setting(
        5, "Time without text after which an utterance gives way", gt=0, le=3600
    )

    @model_validator(mode="after")
    def _callers_are_known(self) -> Self:
        if self.host and not is_loopback(self.host) and not (self.keys or self.allow_anonymous):
            raise ValueError(
                "HOST lets other machines in: give API_KEYS, or set ALLOW_ANONYMOUS=true"
            )
        return self

    @property
    def keys(self) -> tuple[str, ...]:
        """The valid keys for `server.py`; none if every caller is allowed."""
        given = self.api_keys.get_secret_value() if self.api_keys else ""
        return tuple(filter(None, map(trimmed, given.split(","))))

    def check_reachable(self, env: Mapping[str, str] | None = None) -> None:
        """Raises `ConfigError` where others are to call `server.py` and could not.

        That is on RunPod and in the worker's image, if nothing says who may call.
        """
        env = os.environ if env is None else env
        is_open = self.host or self.keys or self.allow_anonymous
        if not is_open and (on_runpod(env) or env.get("VIBEVOICE_IMAGE")):
            raise ConfigError(
                "API_KEYS: nobody could call this server: give keys, or set ALLOW_ANONYMOUS=true"
            )

    @property
    def address(self) -> str:
        """The address that `server.py` binds: HOST, else loopback or, with access set up, all."""
        return self.host or ("0.0.0.0" if self.keys or self.allow_anonymous else "127.0.0.1")  # noqa: S104


class Transcription(_Group):
    """Recordings that become text."""

    max_upload_mb: int = _setting(200, "Largest recording that is transcribed", ge=1, le=4096)
    max_audio_sec: float = _setting(
        14_400, "Longest recording that is transcribed", ge=1, le=86_400
    )
    max_transcriptions: int = _setting(2, "Recordings that are heard at once", ge=1, le=256)


class Text(_Group):
    """Limits of a text, and of the chunks that it is cut into. Sizes in characters."""

    max_text_length: int = _setting(100_000, "Longest text, in characters", ge=1, le=1_000_000)
    max_chunk_chars: int = _setting(1000, "Longest text of one chunk", ge=100, le=10_000)
    min_last_chunk_chars: int = Field(
        # At most half of a chunk, so that MAX_CHUNK_CHARS can be set alone.
        default_factory=lambda data: min(150, data.get("max_chunk_chars", 1000) // 2),
        ge=0,
        le=5_000,
        description="Shorter last chunks are balanced with the one before",
    )
    chunk_silence_ms: int = _setting(40, "Silence between chunks", ge=0, le=10_000)
    paragraph_silence_ms: int = _setting(600, "Silence where a paragraph ends", ge=0, le=10_000)

    @model_validator(mode="after")
    def _chunks_can_be_balanced(self) -> Self:
        if self.min_last_chunk_chars * 2 > self.max_chunk_chars:
            raise ValueError("MIN_LAST_CHUNK_CHARS must be at most half of MAX_CHUNK_CHARS")
        return self


class Audio(_Group):
    """Voices and sound: what counts if a request does not say."""

    default_speaker: str = _setting("Alice", "Voice of jobs that name none", min_length=1)
    strict_voices: bool = _setting(False, "An unknown voice is an error, not the first voice")
    default_cfg_scale: float = _setting(1.3, "Guidance of jobs that name none", gt=0, le=10)
    max_retries: int = _setting(1, "How often a bad chunk is generated again", ge=0, le=5)
    pace_tolerance: float = _setting(
        2.5, "Factor by which a chunk may be longer or shorter than usual", gt=1, le=100
    )
    verify: Literal["off", "warn", "repeat"] = _setting(
        "off", "Whether jobs that do not say are heard and checked"
    )
    default_sample_rate: int = _setting(24_000, "Sample rate of answers, Hz", ge=8_000, le=48_000)
    target_lufs: float = _setting(-16, "Loudness of jobs that name none, in LUFS", ge=-40, le=-6)


class S3(_Group):
    """The S3 bucket for answers."""

    s3_endpoint_url: str | None = _s3("s3_endpoint_url", "bucket_endpoint_url", "S3 endpoint")
    s3_access_key_id: str | None = _s3("s3_access_key_id", "bucket_access_key_id", "S3 access key")
    s3_secret_access_key: SecretStr | None = _s3(
        "s3_secret_access_key", "bucket_secret_access_key", "S3 secret key"
    )
    s3_bucket_name: str | None = _s3("s3_bucket_name", "bucket_name", "S3 bucket")
    s3_region: str | None = _setting(None, "S3 region")
    s3_prefix: str = _setting("", "Folder in the bucket")
    s3_url_ttl_seconds: int = _setting(3600, "How long a link works", ge=1, le=604_800)

    @model_validator(mode="after")
    def _bucket_is_whole(self) -> Self:
        needed = ("s3_access_key_id", "s3_secret_access_key", "s3_bucket_name")
        missing = [name.upper() for name in needed if not getattr(self, name)]
        if self._bucket_name:
            missing = [name for name in missing if name != "S3_BUCKET_NAME"]
        if missing and (len(missing) < len(needed) or self.s3_endpoint_url):
            raise ValueError(f"S3 is half set: {', '.join(missing)} must be given too")
        _ = self.bucket  # raises if one of its parts is invalid
        return self

    @property
    def _bucket_name(self) -> str | None:
        return self.s3_bucket_name or bucket_in(self.s3_endpoint_url or "")

    @property
    def bucket(self) -> Bucket | None:
        """The bucket for answers; None without S3 settings."""
        name = self._bucket_name
        if not (self.s3_access_key_id and self.s3_secret_access_key and name):
            return None
        return Bucket(
            endpoint_url=self.s3_endpoint_url,
            access_key_id=self.s3_access_key_id,
            secret_access_key=self.s3_secret_access_key.get_secret_value(),
            name=name,
            region=self.s3_region,
            prefix=self.s3_prefix,
            url_ttl_seconds=self.s3_url_ttl_seconds,
        )


class Settings(S3, Audio, Text, Transcription, Http, Queue, Engines):
    """All groups of settings, frozen."""

    @classmethod
    def from_env(cls, env: Mapping[str, str] | None = None) -> Self:
        """Reads the settings from `env` (default: the process's). Raises `ConfigError`."""
        env = os.environ if env is None else env
        if unreplaced := list(filter(None, starmap(_no_secret, env.items()))):
            raise ConfigError("\n".join(unreplaced))
        given = EnvSettingsSource(cls)
        given.env_vars = {
            name.lower(): value
            for name, given_value in env.items()
            if name.isupper() and (value := trimmed(given_value))
        }
        usual = InitSettingsSource(cls, _ON_RUNPOD if on_runpod(env) else {})
        try:
            return cls(_build_sources=((given, usual), {}))
        except ValidationError as error:
            found = error.errors(include_url=False, include_input=False)
            # A default factory that needs an invalid field is not called: no problem of its own.
            told = [_told(item) for item in found if item["type"] != "default_factory_not_called"]
            raise ConfigError("\n".join(told)) from None


def _no_secret(name: str, value: str) -> str | None:
    """The problem of a variable in which RunPod has left a secret's name as it was."""
    found = _UNREPLACED.search(value)
    return f"{name}: RunPod has no secret {found[1]!r} to put here" if found else None


def _told(item: Any) -> str:
    """A line with the variable, its problem and its meaning. The value is never quoted: it may be a
    secret in the wrong variable."""
    name = ".".join(map(str, item["loc"]))
    problem = item.get("ctx", {}).get("error", item["msg"])
    field = Settings.model_fields.get(name)
    return f"{name.upper() or 'settings'}: {problem}" + (f" ({field.description})" if field else "")
