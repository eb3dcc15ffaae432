"""The methods, in one dict. Each file can be read beside its paper; a baseline that is another
method with other options is named as such."""

from dataclasses import replace

from lfjax.errors import UserError, nearest
from lfjax.methods import cut, dpo, gap, reward, rloo, sft, srt
from lfjax.methods.estimator import Estimator
from lfjax.methods.method import Method


def _as(method: Method, **options) -> Method:
    """A method under other defaults."""
    return replace(method, options={**method.options, **options})


METHODS: dict[str, Method] = {
    "sft": sft.METHOD,
    "cut": cut.METHOD,
    "dpo": dpo.METHOD,
    "srt": srt.METHOD,
    "reward": reward.METHOD,
    "gap": gap.METHOD,
    "improve": _as(sft.METHOD, target="improve"),
    "hindsight": _as(cut.METHOD, use_l1=False),
    "unlikelihood": _as(cut.METHOD, detect="all"),
    "forward_prediction": replace(_as(sft.METHOD, target="forward"), normalize="example"),
    "critique_sft": _as(sft.METHOD, target="critique"),
    "ilf_mle": replace(_as(sft.METHOD, target="refinement"), normalize="example"),
    "best_of_n": replace(_as(sft.METHOD, target="best"), normalize="example"),
}


def get_method(name: str) -> Method:
    """A method by name. Raises: UserError listing the known ones."""
    if name not in METHODS:
        raise UserError(f"method: unknown '{name}'. {nearest(name, METHODS)}")
    return METHODS[name]


ESTIMATORS: dict[str, Estimator] = {"rloo": rloo.ESTIMATOR}


def get_estimator(name: str) -> Estimator:
    """An estimator of a policy's gradient by name. Raises: UserError listing the known ones."""
    if name not in ESTIMATORS:
        raise UserError(f"estimator: unknown '{name}'. {nearest(name, ESTIMATORS)}")
    return ESTIMATORS[name]
