"""What an experiment showed: lift of each variant over the control, and whether the shares are right."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

#: Shares that differ from the wanted ones with a smaller probability are an error of the experiment.
MISMATCH = 1e-3


@dataclass(frozen=True)
class VariantResult:
    """One variant.

    Attributes:
        users: exposed to this variant alone.
        conversion: share of them with an outcome after their first exposure.
        mean: of their outcomes: how many, or the sum of their values.
        lift: mean over the control's, minus 1; None for the control, or where a mean is zero.
        low, high: 95 % confidence interval of the lift (delta method on the logarithm of the ratio).
        share_probability: of a number of users as far from the wanted share, were all right.
    """

    name: str
    users: int
    conversion: float
    mean: float
    lift: float | None
    low: float | None
    high: float | None
    share_probability: float


@dataclass(frozen=True)
class ExperimentResult:
    """All variants, control first.

    Attributes:
        mixed_users: saw several variants and were left out.
        mismatch: whether the shares of users differ from the wanted ones by more than chance: then something
            drops or moves users, and no lift is to be trusted.
    """

    variants: list[VariantResult]
    mixed_users: int
    mismatch: bool

    def lines(self) -> str:
        """As a table."""
        rows = [f"{'variant':16}{'users':>10}{'conversion':>12}{'mean':>12}{'lift':>10}   95 % interval"]
        for one in self.variants:
            lift = "" if one.lift is None else f"{one.lift:+10.2%}   {one.low:+.2%} .. {one.high:+.2%}"
            rows.append(f"{one.name:16}{one.users:>10,}{one.conversion:>12.4%}{one.mean:>12.5g}{lift}")
        if self.mixed_users:
            rows.append(f"{self.mixed_users:,} users saw several variants and were left out")
        if self.mismatch:
            least = min(one.share_probability for one in self.variants)
            rows.append(
                f"DO NOT TRUST THIS: users fall into the variants in other shares than wanted (probability "
                f"{least:.2g} by chance); find out where users are lost"
            )
        return "\n".join(rows)


def compare_variants(
    exposures: Any,
    outcomes: Any,
    *,
    experiment: str,
    control: str,
    shares: Mapping[str, float],
) -> ExperimentResult:
    """The outcomes of users after they first saw a variant.

    Args:
        exposures: table (``__arrow_c_stream__``) as the server writes it: experiment, user, variant, at.
        outcomes: table with ``user`` (as text), ``at`` (timestamp) and, if wanted, ``value`` (number; else
            each row counts 1).
        experiment: whose exposures.
        control: the variant that the others are compared with.
        shares: wanted share of the users per variant, any positive numbers.

    Raises:
        ValueError: an unknown variant, or no exposures of this experiment.
    """
    if control not in shares:
        raise ValueError(f"control: wanted one of {', '.join(shares)}, got {control!r}")
    shown = pa.table(exposures)
    shown = shown.filter(pc.equal(shown.column("experiment"), experiment))
    if shown.num_rows == 0:
        raise ValueError(f"exposures: none of experiment {experiment!r}")
    strange = set(pc.unique(shown.column("variant")).to_pylist()) - set(shares)
    if strange:
        raise ValueError(f"shares: wanted one for each variant that was shown, got none for {strange}")
    users = shown.group_by("user").aggregate([("variant", "min"), ("variant", "max"), ("at", "min")])
    single = pc.equal(users.column("variant_min"), users.column("variant_max"))
    mixed = int(pc.sum(pc.invert(single)).as_py())
    users = users.filter(single)
    amounts = _amounts(users, pa.table(outcomes))
    variant = np.array(users.column("variant_min").to_pylist(), dtype=object)
    own = {name: amounts[variant == name] for name in shares}
    wanted = sum(shares.values())
    results = []
    for name in sorted(shares, key=lambda name: name != control):
        other = None if name == control else own[control]
        results.append(_result(name, own[name], other, len(variant), shares[name] / wanted))
    least = min(one.share_probability for one in results) * len(results)
    return ExperimentResult(results, mixed, least < MISMATCH)


def _amounts(users: pa.Table, outcomes: pa.Table) -> npt.NDArray[np.float64]:
    """What each user's outcomes at or after the first exposure add up to, [users]."""
    first = pa.table({"user": users.column("user"), "since": users.column("at_min")})
    outcomes = outcomes.set_column(
        outcomes.column_names.index("at"), "at", outcomes.column("at").cast(users.column("at_min").type)
    )
    if "value" not in outcomes.column_names:
        outcomes = outcomes.append_column("value", pa.array(np.ones(outcomes.num_rows)))
    joined = outcomes.join(first, "user", join_type="inner")
    joined = joined.filter(pc.greater_equal(joined.column("at"), joined.column("since")))
    sums = joined.group_by("user").aggregate([("value", "sum")])
    found = dict(zip(sums.column("user").to_pylist(), sums.column("value_sum").to_pylist(), strict=True))
    return np.array([found.get(user, 0.0) for user in users.column("user").to_pylist()], np.float64)


def _result(
    name: str, own: npt.NDArray[np.float64], control: npt.NDArray[np.float64] | None, users: int, share: float
) -> VariantResult:
    spread = math.sqrt(users * share * (1 - share))
    distance = abs(len(own) - users * share) / spread if spread > 0 else 0.0
    lift = low = high = None
    if control is not None and len(own) > 1 and len(control) > 1 and own.mean() > 0 and control.mean() > 0:
        ratio = math.log(own.mean() / control.mean())
        error = math.sqrt(_relative_variance(own) + _relative_variance(control))
        lift, low, high = (math.expm1(ratio + z * error) for z in (0.0, -1.959964, 1.959964))
    mean = float(own.mean()) if len(own) else math.nan
    conversion = float((own > 0).mean()) if len(own) else math.nan
    return VariantResult(
        name, len(own), conversion, mean, lift, low, high, math.erfc(distance / math.sqrt(2))
    )


def _relative_variance(values: npt.NDArray[np.float64]) -> float:
    """Of the mean, over the mean squared."""
    return float(values.var(ddof=1) / len(values) / values.mean() ** 2)
