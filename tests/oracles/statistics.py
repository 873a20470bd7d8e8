"""Compares cvmm's statistics with those of SciPy and NumPy.

Reads one JSON object from standard input and prints a line for each figure that differs by more than 1e-9.
"""

import itertools
import json
import math
import sys
from types import SimpleNamespace

import numpy as np
from scipy import special, stats

TOLERANCE = 1e-9
problems = []


def same(name, what, ours, theirs):
    """Both absolute and relative: of p-values the small ones matter."""
    ours, theirs = float(ours), float(theirs)
    if not math.isclose(ours, theirs, rel_tol=TOLERANCE, abs_tol=0.0 if theirs else TOLERANCE):
        problems.append(f"{name}: {what} is {ours!r}, SciPy says {theirs!r}")


def interval(name, what, ours, data, statistic, drawn):
    """BCa from our own resamples: which ones were drawn is all that is ours to choose."""
    if min(len(sample) for sample in data) < 2:
        if ours is not None:
            problems.append(f"{name}: {what} of a single value is {ours}")
        return
    drawn = np.array(drawn)
    if len(drawn) != 10_000:
        problems.append(f"{name}: {len(drawn)} resamples")
    result = stats.bootstrap(
        data,
        statistic,
        n_resamples=0,
        bootstrap_result=SimpleNamespace(bootstrap_distribution=drawn),
        method="BCa",
        vectorized=True,
        confidence_level=0.95,
    ).confidence_interval
    low, high = result.low, result.high
    if math.isnan(low) and math.isnan(high):
        # No value alone moves the statistic, so SciPy's acceleration is 0/0. Without it the interval is the
        # bias-corrected one; where there is no deviation at all, a point.
        here = statistic(*data, axis=-1)
        share = (np.mean(drawn < here) + np.mean(drawn <= here)) / 2
        bias, z = special.ndtri(share), special.ndtri(0.025)
        low = np.quantile(drawn, special.ndtr(2 * bias + z))
        high = np.quantile(drawn, special.ndtr(2 * bias - z))
    same(name, f"lower end of {what}", ours["low"], low)
    same(name, f"upper end of {what}", ours["high"], high)


def check_sample(name, values, summary, drawn):
    values = np.array(values)
    same(name, "n", summary["n"], len(values))
    same(name, "min", summary["min"], np.min(values))
    same(name, "max", summary["max"], np.max(values))
    same(name, "median", summary["median"], np.median(values))
    same(name, "mad", summary["mad"], stats.median_abs_deviation(values))
    for share in (90, 95, 99):
        same(name, f"p{share}", summary[f"p{share}"], np.percentile(values, share))
    low, high = np.percentile(values, [25, 75])
    reach = 1.5 * (high - low)
    outliers = sorted(v for v in values if v < low - reach or v > high + reach)
    if outliers != summary["outliers"]:
        problems.append(f"{name}: outliers are {summary['outliers']}, should be {outliers}")
    interval(name, "interval", summary["interval"], (values,), np.median, drawn)


def check_pair(name, x, y, ours, drawn):
    x, y = np.array(x), np.array(y)
    test = stats.mannwhitneyu(x, y, method="auto")
    same(name, "U", ours["u"], test.statistic)
    same(name, "p", ours["p"], test.pvalue)
    exact = min(len(x), len(y)) <= 8 and len(set(x) | set(y)) == len(x) + len(y)
    if ours["exact"] != exact:
        problems.append(f"{name}: exact is {ours['exact']}")
    same(name, "Cliff's delta", ours["delta"], np.mean(np.sign(x[:, None] - y[None, :])))
    difference = lambda x, y, axis: np.median(y, axis=axis) - np.median(x, axis=axis)
    interval(name, "difference", ours["difference"], (x, y), difference, drawn)


def check_holm(p_values, adjusted):
    """By the closure principle: a hypothesis falls where Bonferroni rejects every set that it is in."""
    everyone = range(len(p_values))
    for at in everyone:
        sets = (s for n in everyone for s in itertools.combinations(everyone, n + 1) if at in s)
        closed = max(min(1.0, len(s) * min(p_values[i] for i in s)) for s in sets)
        same(f"Holm of {p_values}", f"p-value {at}", adjusted[at], closed)


np.seterr(all="ignore")
import warnings

warnings.simplefilter("ignore")
job = json.load(sys.stdin)
for sample in job["samples"]:
    check_sample(sample["name"], sample["values"], sample["summary"], sample["drawn"])
for pair in job["pairs"]:
    check_pair(pair["name"], pair["x"], pair["y"], pair, pair["drawn"])
for family in job["families"]:
    check_holm(family["p"], family["adjusted"])
print("\n".join(problems), end="")
