"""Local steps: every rank trains alone for some steps, then all agree on a model through the compressed exchange.

>>> import trafficzip.local_sgd
>>> trafficzip.local_sgd.LocalSteps.__name__
'LocalSteps'
"""

from trafficzip.local_sgd.state import merge_state_dicts
from trafficzip.local_sgd.stats import LocalStats
from trafficzip.local_sgd.steps import LocalSteps, Round

__all__ = ["LocalStats", "LocalSteps", "Round", "merge_state_dicts"]
