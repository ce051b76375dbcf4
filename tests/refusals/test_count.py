"""How many bad inputs there are, each with the argument that its refusal must name."""

from __future__ import annotations

from tests.cli import test_refusals as commands
from tests.refusals import test_api as api
from tests.refusals import test_cards as cards
from tests.refusals import test_files as files

COUNTS = {"commands": 335, "api": 380, "cards": 220, "files": 150}
"""At least; the tests beside this one let none of them be unclear."""


def test_every_case_names_its_argument() -> None:
    arguments = {
        "commands": [case.values[0] for case in commands.CASES],
        "api": [
            argument
            for table in (api.BAD_SEEDS, api.BAD_CALLS, api.BAD_PLACES, api.BAD_PARTS)
            for argument, _ in table.values()
        ],
        "cards": [case.values[0] for case in cards.CASES],
        "files": [case.values[1] for case in files.CASES],
    }
    for kind, count in COUNTS.items():
        assert len(arguments[kind]) >= count, kind
        assert all(isinstance(name, str) and name for name in arguments[kind]), kind
    assert sum(map(len, arguments.values())) >= 1090
