"""Every setting, read once from the environment and checked before anything starts.

`Settings.from_env()` either gives a whole, valid set or raises `ConfigError` with every problem at
once. An empty variable counts as unset. Secrets are `SecretStr`: they print as asterisks.
"""

import ipaddress
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)

from delivery.bucket import Bucket

ROOT = Path(__file__).resolve().parent

_RUNPOD_MARKS = ("RUNPOD_POD_ID", "RUNPOD_ENDPOINT_ID", "RUNPOD_WEBHOOK_GET_JOB")

# What RunPod's own utilities call these.
_RUNPODS_NAMES = {
    "s3_endpoint_url": "BUCKET_ENDPOINT_URL",
    "s3_access_key_id": "BUCKET_ACCESS_KEY_ID",
    "s3_secret_access_key": "BUCKET_SECRET_ACCESS_KEY",
    "s3_bucket_name": "BUCKET_NAME",
}


class ConfigError(Exception):
    """The environment holds settings that cannot be used; one line each."""


def on_runpod(env: Mapping[str, str] | None = None) -> bool:
    """Whether this process runs as a RunPod worker, by the variables that the platform sets."""
    return any((os.environ if env is None else env).get(name) for name in _RUNPOD_MARKS)


def is_loopback(host: str) -> bool:
    """Whether a name or address means this machine alone."""
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
    except RuntimeError:  # which pydantic would let through
        raise ValueError("names the home of a user that this machine has not") from None


Folder = Annotated[Path, BeforeValidator(_absolute)]


class Settings(BaseModel):
    """One field a setting; the variable has the field's name in capitals."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    vibevoice_volume: Folder = Field(
        ROOT / "volume", description="Folder that outlives the worker: voices, outputs, models"
    )
    model_path: str = Field("vibevoice/VibeVoice-7B", description="Hub id or folder of the model")
    model_revision: str = Field(
        "main",
        pattern=r"^\w[\w.-]*(/\w[\w.-]*)*$",
        description="Commit, branch or tag of a model from the hub",
    )
    model_caches: str = Field(
        "", description="Further hub caches in which models are looked for, with colons between"
    )
    vibevoice_code: Folder | None = Field(
        None, description="Folder of VibeVoice's code, if it is not `vibevoice/` on the volume"
    )
    preload_model: bool = Field(
        False, description="Load the model at the start instead of with the first job"
    )
    hf_token: SecretStr | None = Field(None, description="Hugging Face token, for private models")
    hf_home: Folder | None = Field(None, description="Hugging Face home")
    hf_hub_cache: Folder | None = Field(None, description="Hugging Face download cache")

    engine: Literal["auto", "vibevoice", "espeak"] = Field(
        "auto", description="`auto` takes VibeVoice where it can run; never the preview on RunPod"
    )
    default_speaker: str = Field("Alice", min_length=1, description="Voice of jobs that name none")
    strict_voices: bool = Field(
        False, description="An unknown voice is an error, not a warning and the first voice"
    )
    default_cfg_scale: float = Field(
        1.3, gt=0, le=10, description="Guidance of jobs that name none"
    )

    max_retries: int = Field(
        1, ge=0, le=5, description="How often a chunk that came out badly is generated again"
    )
    pace_tolerance: float = Field(
        2.5, gt=1, le=100, description="Factor by which a chunk may be longer or shorter than usual"
    )

    vibevoice_runtime: Literal["fast", "reference"] = Field(
        "fast", description="`reference` runs upstream's own loop, one chunk at a time"
    )
    vibevoice_attention: Literal["sdpa", "flash"] | None = Field(
        None, description="Attention of VibeVoice, if not the faster that is right here"
    )
    vibevoice_graphs: Literal["on", "off"] = Field(
        "on", description="`off` makes every frame without CUDA graphs"
    )
    max_slots: int | None = Field(
        None, ge=1, le=64, description="Chunks of text that are generated at the same time"
    )
    max_concurrency: int | None = Field(
        None, ge=1, le=256, description="Jobs that the worker takes at the same time"
    )
    stream_jobs: bool = Field(
        False, description="Jobs may ask for `stream: true`; every answer then comes as a list"
    )

    host: str | None = Field(
        None, description="Address that `server.py` binds; without keys this machine's own alone"
    )
    port: int = Field(8000, ge=0, le=65_535, description="Port of `server.py`; 80 on RunPod")
    port_health: int | None = Field(
        None, ge=1, le=65_535, description="A port of its own for `/ping`, in a thread of its own"
    )
    api_keys: SecretStr | None = Field(None, description="Keys of callers, with commas between")
    allow_anonymous: bool = Field(
        False, description="Without `API_KEYS`, serve more than this machine"
    )
    cors_origin: str | None = Field(
        None, description="Web site whose pages may call `server.py`, or `*`"
    )
    openai_input_limit: int = Field(
        4096, ge=1, le=1_000_000, description="Longest `input` over HTTP, in characters"
    )
    max_streams: int = Field(
        32, ge=1, le=1024, description="Answers that `server.py` speaks at the same time"
    )
    max_queue: int = Field(
        64, ge=0, le=10_000, description="Requests that may wait for that; more are refused"
    )
    max_sessions: int = Field(
        128, ge=1, le=10_000, description="WebSockets that may be open at the same time"
    )
    max_request_sec: float = Field(
        600, gt=0, le=86_400, description="Longest time that an answer over HTTP may take"
    )
    session_idle_sec: float = Field(
        60, gt=0, le=86_400, description="Time after which a silent WebSocket is closed"
    )
    utterance_idle_sec: float = Field(
        5, gt=0, le=3600, description="Time without text after which an utterance gives way"
    )
    gpu_usd_per_second: float | None = Field(None, gt=0, le=1, description="Price of the GPU")

    max_text_length: int = Field(
        100_000, ge=1, le=1_000_000, description="Longest accepted text, in characters"
    )
    max_chunk_chars: int = Field(
        1000, ge=100, le=10_000, description="Longest text that is generated in one go"
    )
    min_last_chunk_chars: int = Field(
        # Half of a chunk at most, so that MAX_CHUNK_CHARS can be set alone.
        default_factory=lambda data: min(150, data.get("max_chunk_chars", 1000) // 2),
        ge=0,
        le=5_000,
        description="Shorter last chunks are balanced with the one before",
    )
    chunk_silence_ms: int = Field(40, ge=0, le=10_000, description="Silence between chunks")
    paragraph_silence_ms: int = Field(
        600, ge=0, le=10_000, description="Silence between chunks where a paragraph ends"
    )

    default_sample_rate: int = Field(
        24_000, ge=8_000, le=48_000, description="Sample rate of the answer, in Hz"
    )
    target_lufs: float = Field(
        -16, ge=-40, le=-6, description="Loudness of jobs that name none, in LUFS"
    )

    save_output: bool = Field(True, description="Keep a copy of every answer in `output/`")
    output_retention_days: float = Field(
        2, gt=0, le=3650, description="Age at which a copy is removed"
    )
    s3_endpoint_url: str | None = Field(None, description="S3 endpoint")
    s3_access_key_id: str | None = Field(None, description="S3 access key")
    s3_secret_access_key: SecretStr | None = Field(None, description="S3 secret key")
    s3_bucket_name: str | None = Field(None, description="S3 bucket")
    s3_region: str | None = Field(None, description="S3 region")
    s3_prefix: str = Field("", description="Folder in the bucket")
    s3_url_ttl_seconds: int = Field(
        3600, ge=1, le=604_800, description="How long a link to an answer works"
    )

    @classmethod
    def from_env(cls, env: Mapping[str, str] | None = None) -> Self:
        """Reads the settings from `env` (default: the process's). Raises `ConfigError`."""
        env = os.environ if env is None else env
        given = {}
        for name in cls.model_fields:
            for variable in (name.upper(), _RUNPODS_NAMES.get(name, "")):
                if value := env.get(variable, "").strip():
                    given[name] = value
                    break
        if on_runpod(env):
            given.setdefault("vibevoice_volume", "/runpod-volume/vibevoice")
            given.setdefault("port", "80")
        try:
            return cls.model_validate(given)
        except ValidationError as error:
            problems = [
                f"{'.'.join(map(str, item['loc'])).upper() or 'settings'}: {item['msg']}"
                for item in error.errors(include_url=False, include_input=False)
                if item["type"] != "default_factory_not_called"  # for want of another field
            ]
            raise ConfigError("\n".join(problems)) from None

    @field_validator("hf_token")
    @classmethod
    def _token_fits_a_header(cls, token: SecretStr | None) -> SecretStr | None:
        # The hub library's error would quote it.
        if token and not re.fullmatch("[!-~]+", token.get_secret_value()):
            raise ValueError("a token has no spaces, line ends or letters beyond ASCII")
        return token

    @model_validator(mode="after")
    def _chunks_can_be_balanced(self) -> Self:
        if self.min_last_chunk_chars * 2 > self.max_chunk_chars:
            raise ValueError("MIN_LAST_CHUNK_CHARS must be at most half of MAX_CHUNK_CHARS")
        return self

    @model_validator(mode="after")
    def _bucket_is_whole(self) -> Self:
        needed = {
            "S3_ACCESS_KEY_ID": self.s3_access_key_id,
            "S3_SECRET_ACCESS_KEY": self.s3_secret_access_key,
            "S3_BUCKET_NAME": self.s3_bucket_name,
        }
        missing = [name for name, value in needed.items() if not value]
        if missing and (len(missing) < len(needed) or self.s3_endpoint_url):
            raise ValueError(f"S3 is half set: {', '.join(missing)} must be given too")
        _ = self.bucket  # raises where one of its parts cannot be
        return self

    @model_validator(mode="after")
    def _callers_are_known(self) -> Self:
        if self.host and not is_loopback(self.host) and not (self.keys or self.allow_anonymous):
            raise ValueError(
                "HOST lets other machines in: give API_KEYS, or set ALLOW_ANONYMOUS=true"
            )
        return self

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys that callers of `server.py` may have; none where everyone may call."""
        given = self.api_keys.get_secret_value() if self.api_keys else ""
        return tuple(filter(None, (key.strip() for key in given.split(","))))

    @property
    def address(self) -> str:
        """What `server.py` binds."""
        return self.host or ("0.0.0.0" if self.keys or self.allow_anonymous else "127.0.0.1")  # noqa: S104

    @property
    def bucket(self) -> Bucket | None:
        """Where answers are uploaded to, if anywhere."""
        if not (self.s3_access_key_id and self.s3_secret_access_key and self.s3_bucket_name):
            return None
        return Bucket(
            endpoint_url=self.s3_endpoint_url,
            access_key_id=self.s3_access_key_id,
            secret_access_key=self.s3_secret_access_key.get_secret_value(),
            name=self.s3_bucket_name,
            region=self.s3_region,
            prefix=self.s3_prefix,
            url_ttl_seconds=self.s3_url_ttl_seconds,
        )

    @property
    def further_hub_caches(self) -> tuple[Path, ...]:
        return tuple(Path(cache) for cache in self.model_caches.split(":") if cache)

    @property
    def audio_prompts_dir(self) -> Path:
        """Where the voices' recordings lie."""
        return self.vibevoice_volume / "demo" / "voices"

    @property
    def output_dir(self) -> Path:
        return self.vibevoice_volume / "output"
