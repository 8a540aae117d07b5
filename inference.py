"""The inference layer under the design card's name; it lies in `synthesis/inference.py`."""

from synthesis.inference import VibeVoiceInference
from voices.catalogue import VoiceMapper

__all__ = ["VibeVoiceInference", "VoiceMapper"]
