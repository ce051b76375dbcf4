"""Loss curves are drawn from training logs as they are written."""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image

from ctrlgen.training.curves import loss_curve


def test_a_log_becomes_a_picture(tmp_path: Path) -> None:
    entries = [
        {"step": 50 * i, "seconds": 60.0 * i, "loss": 1 / i, "lr": 1e-3} for i in range(1, 9)
    ]
    entries[3]["validation"] = 0.3
    entries.append({"step": 410, "seconds": 500.0, "final": 0.1})
    log = tmp_path / "toy.log.jsonl"
    log.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    loss_curve(log, tmp_path / "new" / "toy-loss.png")
    drawn = Image.open(tmp_path / "new" / "toy-loss.png").convert("RGB")
    assert drawn.size == (720, 420) and len(drawn.getcolors(10**6)) > 10
