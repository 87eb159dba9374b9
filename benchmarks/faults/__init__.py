"""Faults that the server must survive, many times over: ``python -m benchmarks.faults``.

Each fault is a function of a count and a seed. It raises AssertionError at the first wrong thing, and returns
how many of what it did, by name.
"""

from benchmarks.faults.bodies import bad_bodies
from benchmarks.faults.disk import disk_full
from benchmarks.faults.folders import corrupt_models, reload_storm
from benchmarks.faults.kills import kills
from benchmarks.faults.shared import store_gone

FAULTS = {
    "killed at random while snapshots are written": kills,
    "disk full": disk_full,
    "Redis gone and back": store_gone,
    "corrupt model folder": corrupt_models,
    "reload storm under load": reload_storm,
    "malformed and oversized requests": bad_bodies,
}
