"""plotly.js, which draws the charts: from the installed package, nothing of it is committed."""

from __future__ import annotations

import pkgutil
import re
from functools import cache

from ctrlgen.extras import require
from ctrlgen.rows.errors import MissingExtra

__all__ = ["plotly"]


@cache
def plotly() -> str:
    """The source of plotly.js.

    Raises:
        MissingExtra: if plotly is not installed.
    """
    require("plotly", "report")
    source = pkgutil.get_data("plotly", "package_data/plotly.min.js")
    if source is None:
        raise MissingExtra("plotly", "report")
    # Within a script element, HTML ends it at this word, wherever it stands.
    return re.sub("</script", r"<\\/script", source.decode(), flags=re.IGNORECASE)
