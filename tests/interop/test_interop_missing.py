import sys

import pytest
from detections_of_all_kinds import TWO

from foveal.errors import UsageError
from foveal.interop import to_arrow, to_pandas, to_supervision


@pytest.mark.parametrize(
    ("name", "convert", "found"),
    [("supervision", to_supervision, TWO), ("pandas", to_pandas, {}), ("pyarrow", to_arrow, {})],
)
def test_a_package_that_is_missing_is_named_with_what_installs_it(name, convert, found, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UsageError, match=rf'{name} is not installed: pip install "foveal\[interop\]"'):
        convert(found)
