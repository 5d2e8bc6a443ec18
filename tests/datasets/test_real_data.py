"""Tests on the real files may only be skipped where no folder of them was given."""

import os

import pytest

HERE, NAME = os.path.split(__file__)
ENDED = (pytest.fail.Exception, pytest.skip.Exception)  # both, for a skip that gets out would skip the test below


@pytest.mark.parametrize("given", [HERE, os.path.join(HERE, "nowhere")])
def test_a_file_missing_from_the_given_folder_fails(real_data, given):
    with pytest.raises(ENDED, match=r"no mnist/absent in MTLKIT_DATA") as ended:
        real_data("mnist/absent")
    assert ended.type is pytest.fail.Exception


@pytest.mark.parametrize("given", [None, ""])
def test_no_folder_skips_and_says_so(real_data, given):
    with pytest.raises(ENDED, match="MTLKIT_DATA is not set") as ended:
        real_data(NAME)
    assert ended.type is pytest.skip.Exception


@pytest.mark.parametrize("given", [HERE])
def test_the_given_folder_is_used(real_data, given):
    real_data(NAME)
    assert os.environ["MTLKIT_DATA"] == given
