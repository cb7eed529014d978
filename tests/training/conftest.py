import pytest

from tests.training.toy import draw_no_curves


@pytest.fixture
def curves():
    """Has the curves of a report drawn."""


@pytest.fixture(autouse=True)
def spare_curves(request, monkeypatch):
    """Leaves out the curves, which take as long to draw as everything else of a run."""
    if "curves" not in request.fixturenames:
        monkeypatch.setattr("litv2_jax.training.log.draw_curves", draw_no_curves)
