"""Several models in one worker: which of them are resident, and which make room for others."""

from engines.manager.entry import Usage
from engines.manager.lease import Lease, awaitable
from engines.manager.manager import ModelManager
from engines.manager.policy import Policy

__all__ = ["Lease", "ModelManager", "Policy", "Usage", "awaitable"]
