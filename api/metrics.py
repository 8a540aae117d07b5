"""Metrics of one server, in Prometheus' text format, for `/metrics`."""

import math
from collections.abc import Callable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from api.admission import AdmissionControl
from synthesis.result import Result

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_FACTORS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 5)


_ENGINE: Mapping[str, tuple[type[CounterMetricFamily | GaugeMetricFamily], str]] = {
    "frames_replayed": (CounterMetricFamily, "Frames that were CUDA graphs"),
    "frames_eager": (CounterMetricFamily, "Frames that were made without a graph"),
    "restarts": (CounterMetricFamily, "Starts of an engine that was lost"),
    "frame_seconds": (GaugeMetricFamily, "Time of a frame of all slots, a moving mean"),
}


class _Figures(Collector):
    """A collector of the engine's own figures. They are read at each scrape."""

    def __init__(self, figures: Callable[[], Mapping[str, float]]) -> None:
        self._figures = figures

    def collect(self) -> Iterator[Metric]:
        figures = self._figures()
        for name, (kind, text) in _ENGINE.items():
            if name in figures:
                yield kind(f"vibevoice_{name}", text, value=figures[name])


_MODEL: Mapping[str, tuple[type[CounterMetricFamily | GaugeMetricFamily], str]] = {
    "loads": (CounterMetricFamily, "Loads of a model"),
    "failures": (CounterMetricFamily, "Loads of a model that failed"),
    "unloads": (CounterMetricFamily, "Unloads of a model"),
    "evictions": (CounterMetricFamily, "Unloads that made room for another model"),
    "load_seconds": (CounterMetricFamily, "Spent on loads of a model"),
    "unload_seconds": (CounterMetricFamily, "Spent on unloads of a model"),
    "resident": (GaugeMetricFamily, "Whether a model is loaded"),
    "requests": (GaugeMetricFamily, "Requests that hold a model"),
    "host_memory_bytes": (GaugeMetricFamily, "What a model's load took of the host's memory"),
    "gpu_memory_bytes": (GaugeMetricFamily, "What a model's load took of the GPU's memory"),
}


class _ModelFigures(Collector):
    """A collector of what happened to each model. Its label is the model's id."""

    def __init__(self, figures: Callable[[], Mapping[str, Mapping[str, float]]]) -> None:
        self._figures = figures

    def collect(self) -> Iterator[Metric]:
        figures = self._figures()
        for name, (kind, text) in _MODEL.items():
            family = kind(f"vibevoice_model_{name}", text, labels=["model"])
            for model, values in figures.items():
                family.add_metric([model], values[name])
            yield family


class Metrics:
    """The metrics of one server. Label values come from small fixed sets, never from a caller.

    `cold_start` gives the seconds from process start to a loaded engine, or None before.
    """

    def __init__(self, admission: AdmissionControl, cold_start: Callable[[], float | None]) -> None:
        self.registry = CollectorRegistry()
        into = self.registry
        self.answers = Counter(
            "vibevoice_http_answers",
            "Answers by route and status",
            ["route", "status"],
            registry=into,
        )
        self.errors = Counter("vibevoice_errors", "Errors by code", ["door", "code"], registry=into)
        self.cancels = Counter(
            "vibevoice_cancels", "Speech stopped before its end", ["door", "why"], registry=into
        )
        self.sessions = Gauge("vibevoice_active_sessions", "Open WebSockets", registry=into)
        self.audio = Counter("vibevoice_audio_seconds", "Speech made", registry=into)
        self.heard = Counter(
            "vibevoice_heard_seconds", "Recordings that became text", registry=into
        )
        self._gpu = Counter(
            "vibevoice_gpu_seconds", "The GPU's time for answers", ["door"], registry=into
        )
        self._cost = Counter(
            "vibevoice_cost_usd", "The same by GPU_USD_PER_SECOND", ["door"], registry=into
        )
        start = Gauge(
            "vibevoice_cold_start_seconds", "Of this process, once it can speak", registry=into
        )
        start.set_function(lambda: cold_start() or math.nan)
        self._first = self._times("first_audio_seconds", "From the request to the first sound")
        self._encode = self._times("encode_seconds", "Spent on levelling and encoding an answer")
        self._factor = Histogram(
            "vibevoice_real_time_factor",
            "Time through duration",
            ["door"],
            buckets=_FACTORS,
            registry=into,
        )
        active = Gauge("vibevoice_active_streams", "Answers that are being spoken", registry=into)
        active.set_function(lambda: admission.taken)
        depth = Gauge("vibevoice_queue_depth", "Requests that wait for a place", registry=into)
        depth.set_function(lambda: admission.waiting)
        self._factors = (0.0, 0.0)

    def watch(self, figures: Callable[[], Mapping[str, float]]) -> None:
        """Adds an engine's figures to the metrics. `figures` is called at each scrape."""
        self.registry.register(_Figures(figures))

    def watch_models(self, figures: Callable[[], Mapping[str, Mapping[str, float]]]) -> None:
        """Adds what `figures` says of each model; it is called at each scrape."""
        self.registry.register(_ModelFigures(figures))

    def _times(self, name: str, text: str) -> Histogram:
        return Histogram(
            f"vibevoice_{name}", text, ["door"], buckets=_SECONDS, registry=self.registry
        )

    @property
    def real_time_factor(self) -> float | None:
        """Synthesis time divided by audio duration, over all answers so far; None before any."""
        spent, made = self._factors
        return round(spent / made, 4) if made else None

    def spoken(self, door: str, result: Result, waited_sec: float) -> None:
        """Counts a finished answer. `waited_sec` is its time in the queue."""
        timings = result.timings
        self._first.labels(door).observe(waited_sec + timings["first_audio_sec"])
        self._encode.labels(door).observe(timings["encode_sec"])
        self._factor.labels(door).observe(timings["real_time_factor"])
        self.audio.inc(result.duration_sec)
        self._gpu.labels(door).inc(timings.get("gpu_sec", 0))
        self._cost.labels(door).inc(result.cost_usd or 0)
        spent, made = self._factors
        self._factors = (spent + timings["total_sec"], made + result.duration_sec)

    def text(self) -> bytes:
        """All metrics in Prometheus' text format 0.0.4."""
        return generate_latest(self.registry)
