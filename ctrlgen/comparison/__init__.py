"""Methods compared on somebody's own prior, problems and data, at matched budgets.

comparison = cg.compare(prior, problem, methods=["dps", "ddrm"], budgets=[20, 50])
print(comparison.table(), *comparison.sentences, sep="\n")
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ctrlgen.lazy import attach

if TYPE_CHECKING:
    from ctrlgen.comparison.outcome import Comparison
    from ctrlgen.comparison.study import Study, compare

__all__ = ["Comparison", "Study", "compare"]

__getattr__, __dir__ = attach(__name__)
