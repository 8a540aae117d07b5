"""Makes `realtime.npz`: what upstream's own class makes of random weights and given tokens.

    python tests/golden/make_realtime.py CLONE

CLONE is a clone of https://github.com/microsoft/VibeVoice at commit
e73d1e17c3754f046352014856a922f8208fb5d2, with transformers 4.51.3. Weights and voices are drawn by
`bench/realtime_model.py`, so neither they nor upstream's code are kept here. For each case the file
has the tokens, and of 60 frames or up to the model's own end: the latents, both branches' hidden
states before each frame, and every 16th sample.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent.parent
FILE = Path(__file__).with_name("realtime.npz")


def main(clone: Path) -> None:
    from tests.realtime_upstream import CASES, THINNED, Upstream

    upstream = Upstream(clone, "narrow")
    made: dict[str, Any] = {}
    for number, case in enumerate(CASES):
        heard = upstream.generate(case)
        made[f"{number}.ids"] = np.array(case.ids)
        made[f"{number}.latents"] = heard.latents.numpy()
        made[f"{number}.hidden"] = heard.hidden.numpy()
        made[f"{number}.samples"] = heard.samples.reshape(-1)[::THINNED].numpy()
    np.savez_compressed(FILE, allow_pickle=False, **made)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main(Path(sys.argv[1]))
