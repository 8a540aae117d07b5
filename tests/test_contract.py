"""What others know of the request and of its errors is made from the one place where it stands."""

from pathlib import Path

import pytest

from tools import contract


@pytest.mark.parametrize("path", contract.files(), ids=lambda path: path.name)
def test_what_is_made_is_up_to_date(path: Path) -> None:
    assert path.read_text() == contract.files()[path], "run: python -m tools.contract"
