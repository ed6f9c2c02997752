import numpy as np
import pytest

from trafficzip import THREE_LC, ConfigError, ErrorFeedback, Groups


def test_everything_is_sent_in_the_end():
    feedback = ErrorFeedback({"a": 300})
    groups = Groups([300])
    values = np.random.default_rng(0).standard_normal(300).astype(np.float32)
    sent = np.zeros(300)
    for step in range(400):
        given = values if step == 0 else np.full(300, 1e-30, np.float32)  # all zero would be silent
        frame = THREE_LC.compress(given, groups, residual=feedback.residual, out=feedback.residual)
        sent += THREE_LC.decompress(frame, groups)
    assert np.abs(feedback.residual).max() < 1e-6
    assert np.abs(sent - values).max() < 1e-6


def test_state_dict_round_trip_and_views():
    feedback = ErrorFeedback({"a": 3, "b": 2})
    feedback["b"][:] = [4, 5]
    assert feedback.residual.tolist() == [0, 0, 0, 4, 5]
    state = feedback.state_dict()
    feedback.scale(0.5)
    assert feedback["b"].tolist() == [2, 2.5]
    assert state["b"].tolist() == [4, 5]
    feedback.load_state_dict(state)
    assert feedback.residual.tolist() == [0, 0, 0, 4, 5]
    feedback.reset()
    assert not feedback.residual.any()


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"a": np.zeros(3, np.float32)}, "missing \\['b'\\]"),
        ({"a": np.zeros(3, np.float32), "b": np.zeros(1, np.float32)}, "residual of b: float32 \\[1\\]"),
        ({"a": np.zeros(3), "b": np.zeros(2, np.float32)}, "residual of a: float64"),
        ({"a": np.full(3, np.nan, np.float32), "b": np.zeros(2, np.float32)}, "residual of a is not finite"),
    ],
)
def test_state_that_does_not_fit_changes_nothing(state, message):
    feedback = ErrorFeedback({"a": 3, "b": 2})
    feedback.residual[:] = 1
    with pytest.raises(ConfigError, match=message):
        feedback.load_state_dict(state)
    assert (feedback.residual == 1).all()
