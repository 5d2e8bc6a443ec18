"""Tests on the real files may only be skipped where no folder of them was given."""

import os

import pytest

HERE, NAME = os.path.split(__file__)


@pytest.mark.parametrize("given", [HERE, os.path.join(HERE, "nowhere")])
def test_a_file_missing_from_the_given_folder_fails(real_data, given):
    with pytest.raises(pytest.fail.Exception, match=r"no mnist/absent in MTLKIT_DATA"):
        real_data("mnist/absent")


@pytest.mark.parametrize("given", [None, ""])
def test_no_folder_skips_and_says_so(real_data, given):
    with pytest.raises(pytest.skip.Exception, match="MTLKIT_DATA is not set"):
        real_data(NAME)


@pytest.mark.parametrize("given", [HERE])
def test_the_given_folder_is_used(real_data, given):
    real_data(NAME)
    assert os.environ["MTLKIT_DATA"] == given
