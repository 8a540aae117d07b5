"""The parts of our frame, each alone, against upstream's."""

import functools
import importlib
from typing import Any

import numpy as np
import pytest

from engines.base import PlannedChunk, Turn, Voice
from tests import vibevoice_fixtures as vibevoice  # skips where torch is missing

from engines.vibevoice.architecture import Unsupported, architecture  # isort: skip
from engines.vibevoice.fast.layers.kv_cache import KVCache  # isort: skip
from engines.vibevoice.fast.layers.codec import Codec  # isort: skip
from engines.vibevoice.fast.step import Step, connect  # isort: skip
from engines.vibevoice.fast.layers.head import Head  # isort: skip
from engines.vibevoice.fast.layers.language import LanguageModel  # isort: skip
from engines.vibevoice.fast.layers.noise import Noise, noise_seed  # isort: skip
from engines.vibevoice.fast.layers.norm import RowNorm, epsilon, paired, rms_norm  # isort: skip
from engines.vibevoice.fast.layers.solver import solver_steps  # isort: skip
from engines.vibevoice.fast.voice_cache import VoiceCache, recordings  # isort: skip
from engines.vibevoice.fast.layers.weights import load_weights  # isort: skip
from tests.narrow_model import TOKENS, narrow_network, sizes_of, weights_of  # isort: skip

torch = vibevoice.torch
pytestmark = pytest.mark.filterwarnings(  # upstream's solver under a newer numpy
    "ignore:__array__ implementation:DeprecationWarning"
)

CPU = torch.device("cpu")


@functools.cache
def network(dtype: Any = None) -> Any:
    made = narrow_network(layers=6, code=vibevoice.volume() / "vibevoice")
    return made.to(dtype) if dtype else made


@functools.cache
def weights(dtype: Any = None) -> Any:
    return weights_of(network(dtype), dtype=dtype)


def random(*shape: int, seed: int = 3) -> Any:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def error(ours: Any, theirs: Any) -> float:
    assert ours.shape == theirs.shape
    ours, theirs = ours.double(), theirs.double()
    return float((ours - theirs).square().mean().sqrt() / theirs.square().mean().sqrt())


# The solver


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 10, 15, 20, 50])
def test_the_solver_takes_the_steps_of_upstreams_scheduler(steps: int) -> None:
    scheduler = network().model.noise_scheduler
    scheduler.set_timesteps(steps)
    ours = solver_steps(steps)
    assert [step.time for step in ours] == scheduler.timesteps.tolist()
    sample, state = random(4, 8), torch.zeros(3, 32)
    state[0] = sample.flatten()
    for index, (step, time) in enumerate(zip(ours, scheduler.timesteps, strict=True)):
        output = random(4, 8, seed=index)
        sample = scheduler.step(output, time, sample).prev_sample
        state[2] = output.flatten()
        state[:2] = torch.tensor(step.mix) @ state
        assert error(state[0], sample.flatten()) < 1e-5


# Norms


@pytest.mark.parametrize(("rows", "width"), [(64, 3584), (3200, 32), (8, 2048), (3, 1536)])
@pytest.mark.parametrize("way", ["many", "few", "weighted"])
@torch.inference_mode()  # type: ignore[untyped-decorator]
def test_a_norm_is_torchs_own_to_rounding(rows: int, width: int, way: str) -> None:
    """As torch 2.8 works it out: in float32, the weight too, and rounded once."""
    spread = random(rows, 1, seed=5).abs()
    x = (3 * random(rows, width) * spread).bfloat16()
    weight = (1 + 0.1 * random(width, seed=4)).bfloat16() if way == "weighted" else None
    wide = x.float()
    theirs = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-5)
    theirs = (theirs if weight is None else theirs * weight).bfloat16()
    if way == "many":
        ours = rms_norm(x, epsilon(1e-5, CPU))
    else:
        ours = RowNorm(1e-5, CPU, x.dtype)(x, None if weight is None else paired(weight))
    assert ours.dtype == torch.bfloat16
    differ = ours != theirs
    assert int(differ.sum()) < 1e-4 * x.numel()
    off = (ours[differ].float() - theirs[differ].float()).abs()
    assert (off <= 2**-7 * theirs[differ].float().abs()).all(), "by one step of bfloat16"


@torch.inference_mode()  # type: ignore[untyped-decorator]
def test_a_norm_of_silence_is_silence() -> None:
    silence = torch.zeros(2, 8)
    assert not rms_norm(silence, epsilon(1e-5, CPU)).any()
    assert not RowNorm(1e-5, CPU, torch.float32)(silence).any()


# The diffusion head


@pytest.mark.parametrize("steps", [1, 4, 10])
@torch.inference_mode()  # type: ignore[untyped-decorator]
def test_the_head_samples_as_upstream_does(steps: int) -> None:
    made = Head(weights(), steps)
    hidden, noise = random(6, 64), random(6, 8)
    net = network()
    net.set_ddpm_inference_steps(steps)
    drawn = functools.partial(lambda noise, *_: noise, noise)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "randn", drawn)
        theirs = net.sample_speech_tokens(hidden[::2], hidden[1::2], cfg_scale=1.7)
    assert error(made(hidden, noise[:3], torch.full((3, 1), 1.7)), theirs) < 1e-5


# The codecs


@torch.inference_mode()  # type: ignore[untyped-decorator]
def streamed(codec: Codec, x: Any) -> Any:
    """Frame by frame, (slots, frames, ...)."""
    past = torch.zeros(x.shape[0], codec.context_size, dtype=x.dtype)
    new = torch.zeros_like(past)
    contexts = codec.contexts(past, new)
    out = []
    for frame in x.unbind(1):
        out.append(codec(frame, contexts))
        past.copy_(new)
    return torch.cat(out, dim=1)


@pytest.fixture(params=["a CPU's way", "a GPU's way"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The products that a codec takes on a GPU are tried on a CPU too."""
    if request.param == "a GPU's way":
        monkeypatch.setattr(torch.Tensor, "is_cuda", True)


@pytest.mark.usefixtures("way")
@torch.no_grad()  # type: ignore[untyped-decorator]
def test_a_streamed_decoder_is_the_whole_one() -> None:
    latents = random(2, 5, 8)
    codec = Codec(weights().decoder, weights().architecture.decoder, decodes=True)
    theirs = network().model.acoustic_tokenizer.decode(latents)
    assert error(streamed(codec, latents[:, :, None])[:, :, 0], theirs[:, 0]) < 1e-5


@pytest.mark.usefixtures("way")
@torch.no_grad()  # type: ignore[untyped-decorator]
def test_a_streamed_encoder_is_the_whole_one() -> None:
    sound = 0.1 * random(2, 4, 3200, 1)
    codec = Codec(weights().encoder, weights().architecture.encoder, decodes=False)
    theirs = network().model.semantic_tokenizer.encode(sound.flatten(1)[:, None]).mean
    assert error(streamed(codec, sound), theirs) < 1e-5


@pytest.mark.parametrize("length", [3200, 3201, 6399, 9600, 4000, 17])
@torch.no_grad()  # type: ignore[untyped-decorator]
def test_a_recording_of_any_length_is_heard_as_upstream_hears_it(length: int) -> None:
    sound = 0.1 * random(length)
    codec = Codec(weights().listener, weights().architecture.listener, decodes=False)
    theirs = network().model.acoustic_tokenizer.encode(sound[None, None]).mean
    with torch.inference_mode():
        assert error(codec.whole(sound[None, :, None]), theirs) < 1e-5


# Voices and noise


def voice(seconds: float, pitch: float) -> Voice:
    return Voice("v", vibevoice.recording(pitch, seconds), f"{seconds} {pitch}")


@pytest.mark.parametrize("lengths", [(0.5,), (0.4, 0.51), (0.3, 0.4, 0.2), (0.4, 0.4)])
@pytest.mark.parametrize("kind", ["gaussian", "fix", "none"])
@torch.no_grad()  # type: ignore[untyped-decorator]
def test_voices_are_sampled_as_upstream_samples_them(
    lengths: tuple[float, ...], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    voices = [voice(seconds, 100 + 30 * at) for at, seconds in enumerate(lengths)]
    known = list(recordings(voices, lambda samples: samples, 3200).values())
    net, latent = network(), weights().architecture.latent
    monkeypatch.setattr(net.model.acoustic_tokenizer, "std_dist_type", kind)
    longest = max(len(each.samples) for each in voices if each.samples is not None)
    waves = torch.zeros(len(voices), longest)
    for row, each in zip(waves, voices, strict=True):
        assert each.samples is not None
        row[: len(each.samples)] = torch.from_numpy(each.samples)
    frames = torch.tensor([each.frames for each in known])
    masks = torch.arange(int(frames.max()))[None] < frames[:, None]
    torch.manual_seed(11)
    features, connected = net._process_speech_inputs(waves, masks)
    after = torch.randn(4, 2, latent)
    with torch.inference_mode():
        noise = Noise(PlannedChunk((Turn(0, ""),), 11), CPU, with_voices=True)
        around = noise.voices((len(known), int(frames.max()), latent), torch.float32, 0.5, kind)
        lease = VoiceCache(weights(), 1 << 20).lease()
        sampled = torch.cat(
            [lease.latents(each) + row[: each.frames] for each, row in zip(known, around)]  # noqa: B905
        )
        scaled = (sampled + weights().bias) * weights().scale
        assert error(scaled, features[masks]) < 1e-5
        assert error(connect(weights().acoustic, scaled), connected) < 1e-5
    assert torch.equal(noise.frames(4, latent), after[:, 0])


@pytest.mark.parametrize("latent", [2, 3, 8, 64])
def test_noise_drawn_at_once_is_noise_drawn_frame_by_frame(latent: int) -> None:
    torch.manual_seed(5)
    theirs = torch.stack([torch.randn(2, latent)[0] for _ in range(40)])
    chunk = PlannedChunk((Turn(0, ""),), 5)
    torch.manual_seed(99)  # nobody else's draws matter
    assert torch.equal(Noise(chunk, CPU, with_voices=False).frames(40, latent), theirs)


def test_a_further_attempt_keeps_the_voices_noise_and_changes_the_frames() -> None:
    def draw(attempt: int, with_voices: bool) -> tuple[Any, Any]:
        chunk = PlannedChunk((Turn(0, ""),), 5, attempt)
        noise = Noise(chunk, CPU, with_voices=with_voices)
        around = noise.voices((1, 3, 8), torch.float32, 0.5, "gaussian") if with_voices else None
        return around, noise.frames(3, 8)

    (first, frames), (second, others) = draw(1, True), draw(2, True)
    assert torch.equal(first, second)
    assert not torch.equal(frames, others)
    assert torch.equal(others, draw(2, False)[1])
    torch.manual_seed(noise_seed(PlannedChunk((Turn(0, ""),), 5, 2)))
    assert torch.equal(others, torch.randn(3, 2, 8)[:, 0])


# The language model


@torch.inference_mode()  # type: ignore[untyped-decorator]
def test_a_prompt_in_two_parts_is_the_prompt_in_one() -> None:
    made = LanguageModel(weights(), 64)
    x = random(20, 64)
    caches = [KVCache(weights().architecture, 1, 64, CPU, torch.float32) for _ in range(2)]
    made.prefill(x, 0, caches[0], 0)
    made.prefill(x[:7], 0, caches[1], 0)
    made.prefill(x[7:], 7, caches[1], 0)
    assert error(caches[1].tensor, caches[0].tensor) < 1e-5
    theirs = network().model.language_model(inputs_embeds=x[None], use_cache=True)
    keys = torch.stack([layer[0] for layer in theirs.past_key_values])
    assert error(caches[0].tensor[:, 0, :20, 0].transpose(1, 2), keys[:, 0]) < 1e-5


@torch.inference_mode()  # type: ignore[untyped-decorator]
def test_flash_attentions_kernel_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a stand-in with its signature: (rows, 1, heads, width) and a cache of (rows, tokens,
    key heads, width), of which each row holds `cache_seqlens`."""

    def kernel(query: Any, keys: Any, values: Any, *, cache_seqlens: Any) -> Any:
        assert cache_seqlens.dtype == torch.int32
        out = torch.empty_like(query)
        for row, held in enumerate(cache_seqlens.tolist()):
            k, v = (cached[row, :held].transpose(0, 1) for cached in (keys, values))
            q = query[row].transpose(0, 1)
            groups = len(q) // len(k)
            k, v = k.repeat_interleave(groups, 0), v.repeat_interleave(groups, 0)
            out[row] = torch.nn.functional.scaled_dot_product_attention(q, k, v).transpose(0, 1)
        return out

    class FlashAttn:
        flash_attn_with_kvcache = staticmethod(kernel)

    original = importlib.import_module
    with monkeypatch.context() as patch:
        patch.setattr(
            importlib,
            "import_module",
            lambda name: FlashAttn if name == "flash_attn" else original(name),
        )
        flashing = LanguageModel(weights(), 64, flash=True)
    hidden = []
    for made in (LanguageModel(weights(), 64), flashing):
        cache = KVCache(weights().architecture, 4, 64, CPU, torch.float32)
        made.prefill(random(30, 64), 0, cache, 1)
        hidden.append(made.step(random(4, 64), torch.tensor([0, 30, 0, 0]), cache, 64))
    assert error(*hidden) < 1e-5


def test_without_flash_attention_the_setting_says_so() -> None:
    with pytest.raises(Unsupported, match="flash-attn has no kernel for KV caches"):
        LanguageModel(weights(), 64, flash=True)


# Half precision: each part on upstream's own inputs, in both precisions


def assert_as_good(ours: Any, theirs: Any, exact: Any, most: float = 0.05) -> None:
    """In bfloat16 both round, each its own way. Ours is off the exact value by no more than twice
    what upstream is. One CPU's products round otherwise than another's, which moves both errors:
    by up to a fifth between those of AVX-512, AVX2 and SSE."""
    assert ours.dtype == theirs.dtype == torch.bfloat16
    assert error(ours, exact) < 2 * error(theirs, exact) + 1e-3
    assert error(theirs, exact) < most


@torch.inference_mode()  # type: ignore[untyped-decorator]
def test_half_precision_language_model() -> None:
    x = random(20, 64)
    exact = network().model.language_model(inputs_embeds=x[None]).last_hidden_state[0, -1]
    half = network(torch.bfloat16)
    theirs = half.model.language_model(inputs_embeds=x[None].bfloat16()).last_hidden_state[0, -1]
    made = LanguageModel(weights(torch.bfloat16), 64)
    cache = KVCache(weights().architecture, 1, 64, CPU, torch.bfloat16)
    made.prefill(x[:-1].bfloat16(), 0, cache, 0)
    ours = made.step(x[-1:].bfloat16(), torch.tensor([19]), cache, 64)[0]
    assert_as_good(ours, theirs, exact)


@torch.inference_mode()  # type: ignore[untyped-decorator]
def test_half_precision_head() -> None:
    hidden, noise = random(2, 64), random(2, 8)
    exact = Head(weights(), 10)(hidden, noise[:1], torch.full((1, 1), 1.3))
    half = network(torch.bfloat16)
    half.set_ddpm_inference_steps(10)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "randn", lambda *_: noise)
        theirs = half.sample_speech_tokens(hidden[:1].bfloat16(), hidden[1:].bfloat16(), 1.3)
    made = Head(weights(torch.bfloat16), 10)
    ours = made(hidden.bfloat16(), noise[:1].bfloat16(), torch.full((1, 1), 1.3))
    assert_as_good(ours, theirs, exact, most=0.1)  # ten steps, each on what the last has rounded


@pytest.mark.usefixtures("way")
@torch.inference_mode()  # type: ignore[untyped-decorator]
def test_half_precision_codecs() -> None:
    half, sizes = network(torch.bfloat16), weights().architecture
    latents = random(1, 3, 8)
    exact = network().model.acoustic_tokenizer.decode(latents)[:, 0]
    theirs = half.model.acoustic_tokenizer.decode(latents.bfloat16())[:, 0]
    decoder = Codec(weights(torch.bfloat16).decoder, sizes.decoder, decodes=True)
    assert_as_good(streamed(decoder, latents[:, :, None].bfloat16())[:, :, 0], theirs, exact)
    sound = 0.1 * random(1, 3, 3200, 1)
    exact = network().model.semantic_tokenizer.encode(sound.flatten(1)[:, None]).mean
    with torch.backends.mkldnn.flags(enabled=False):  # its strided ones may be wrong by 100 %
        theirs = half.model.semantic_tokenizer.encode(sound.flatten(1)[:, None].bfloat16()).mean
    encoder = Codec(weights(torch.bfloat16).encoder, sizes.encoder, decodes=False)
    assert_as_good(streamed(encoder, sound.bfloat16()), theirs, exact)


# Weights


def test_a_model_without_an_output_head_uses_its_embedding() -> None:
    tensors = network().state_dict()
    untied = {name: tensor for name, tensor in tensors.items() if name != "lm_head.weight"}
    tied = load_weights(untied.__getitem__, sizes_of(network()), (3, 12), CPU, torch.float32)
    assert torch.equal(tied.choices.t(), tied.embedding[[3, 12]])


def test_each_tensor_of_a_checkpoint_is_read_once() -> None:
    tensors, read = network().state_dict(), list[str]()

    def source(name: str) -> Any:
        read.append(name)
        return tensors[name]

    load_weights(source, sizes_of(network()), (3, 12), CPU, torch.float32)
    assert sorted(read) == sorted(tensors)


def test_a_missing_tensor_is_named() -> None:
    tensors = dict(network().state_dict())
    del tensors["model.prediction_head.layers.1.ffn.up_proj.weight"]
    with pytest.raises(Unsupported, match=r"no model\.prediction_head\.layers\.1\.ffn\.up_proj"):
        load_weights(tensors.__getitem__, sizes_of(network()), (3,), CPU, torch.float32)


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("acoustic_tokenizer_config", "conv_norm", "weight_norm"),
        ("acoustic_tokenizer_config", "mixer_layer", "conv"),
        ("semantic_tokenizer_config", "layernorm", "LN"),
        ("semantic_tokenizer_config", "causal", False),
        ("semantic_tokenizer_config", "encoder_ratios", [8, 5, 5, 4, 2, 1]),
        ("acoustic_tokenizer_config", "layer_scale_init_value", 0),
        ("decoder_config", "hidden_act", "gelu"),
        ("decoder_config", "rope_scaling", {"factor": 2}),
        ("decoder_config", "use_sliding_window", True),
        ("diffusion_head_config", "prediction_type", "epsilon"),
        ("diffusion_head_config", "ddpm_beta_schedule", "linear"),
        ("diffusion_head_config", "hidden_size", 32),
    ],
)
def test_what_we_do_not_compute_is_refused(section: str, key: str, value: object) -> None:
    config = network().config.to_dict()
    config[section] = {**config[section], key: value}
    with pytest.raises(Unsupported):
        architecture(config)


def test_the_published_models_fit() -> None:
    config = importlib.import_module("vibevoice.modular.configuration_vibevoice").VibeVoiceConfig(
        decoder_config={
            "model_type": "qwen2",
            "hidden_size": 3584,
            "intermediate_size": 18_944,
            "num_hidden_layers": 28,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
            "vocab_size": 152_064,
        },
        diffusion_head_config={"hidden_size": 3584},
    )
    sizes = architecture(config.to_dict())
    assert (sizes.hop, sizes.head_dim, 2 * sizes.kv_values) == (3200, 128, 57_344)
    assert sizes.decoder.widths == (2048, 1024, 512, 256, 128, 64, 32)
    assert sizes.decoder.depths == (8, 3, 3, 3, 3, 3, 3)
    assert sizes.encoder.strides == (2, 2, 4, 5, 5, 8)
    assert np.isclose(sizes.voice_std, 0.5)


def test_the_embedding_of_choices_is_the_models() -> None:
    frame = Step(weights(), TOKENS, 64)
    assert torch.equal(frame._embedded, weights().embedding[[3, 12, 13, 14]])
