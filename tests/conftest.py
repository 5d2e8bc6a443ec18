"""One kernel at a time: two that start together on two test processes may pick the same free port."""

import pytest
from filelock import FileLock

STARTS_KERNELS = {"test_live_weights", "test_notebook", "test_paper", "test_your_notebook"}


@pytest.fixture(autouse=True)
def kernel_turn(request, tmp_path_factory):
    """Tests that start a kernel wait for each other across processes."""
    if request.path.stem not in STARTS_KERNELS:
        yield
        return
    with FileLock(tmp_path_factory.getbasetemp().parent / "kernel.lock"):
        yield
