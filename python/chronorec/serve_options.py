"""The command line of ``chronorec serve``, read without loading the server."""

from __future__ import annotations

import argparse

SERVE_EXAMPLES = (
    "  chronorec serve model --journal sessions\n"
    '  curl -d \'{"events": [{"user": 42, "item": "espresso"}]}\' localhost:8000/v1/events\n'
    '  curl -d \'{"user": 42, "k": 5}\' localhost:8000/v1/recommend\n'
    "  chronorec serve model --journal sessions --host 0.0.0.0 --api-keys keys.txt\n"
    "  chronorec serve model --redis redis://localhost:6379/0 --port 8001\n"
    "  chronorec serve new=model2 old=model --shares new=10,old=90 --exposures shown.arrows"
)


def add_serve_arguments(parser: argparse.ArgumentParser) -> None:
    """Models, address, journal, experiment and sessions."""
    parser.add_argument("models", nargs="+", metavar="[NAME=]MODEL", help="model folders, named if several")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8000, help="default: %(default)s")
    parser.add_argument(
        "--api-keys", metavar="FILE", help="keys, one a line; whoever sends none of them is refused"
    )
    parser.add_argument("--journal", metavar="FOLDER", help="keep events and sessions there, over restarts")
    parser.add_argument(
        "--durability",
        choices=["write", "fsync"],
        default="write",
        help="an acknowledged event survives the process (write) or the machine (fsync); default: write",
    )
    parser.add_argument(
        "--snapshot-seconds",
        type=float,
        default=300.0,
        metavar="SECONDS",
        help="between snapshots, which shorten the journal (default: %(default)s)",
    )
    parser.add_argument(
        "--redis", metavar="URL", help="keep events there in place of a journal, for several servers at once"
    )
    parser.add_argument("--fallback", metavar="MODEL", help="answers users of whom nothing is known")
    parser.add_argument("--experiment", default="default", help="name that users are shared out under")
    parser.add_argument("--shares", metavar="NAME=N,...", help="of the users; default: equal")
    parser.add_argument("--exposures", metavar="FILE", help="note there (Arrow stream) who saw which model")
    parser.add_argument("--memory", default="1G", help="bound for sessions, per model (default: %(default)s)")
    parser.add_argument("--forget-after-days", type=float, metavar="DAYS", help="of silence, forget a user")
    parser.add_argument(
        "--precision",
        default="float32",
        metavar="TYPE",
        help="float32, bfloat16 or int8, of the item table; or table=int8,weights=int8,states=bfloat16",
    )
    parser.add_argument(
        "--most-waiting",
        type=int,
        default=1000,
        help="requests at once, more are refused (default: %(default)s)",
    )
    parser.add_argument("--log-requests", action="store_true", help="write a line of JSON for each request")
    parser.add_argument(
        "--drain-seconds",
        type=float,
        default=0.0,
        metavar="SECONDS",
        help="to serve on after SIGTERM while /ready says no (default: %(default)s)",
    )


def parse_shares(text: str) -> dict[str, float]:
    """``"new=10,old=90"`` -> numbers by name.

    Raises:
        ValueError: not of this form.
    """
    try:
        return {name: float(share) for name, share in (part.split("=", 1) for part in text.split(","))}
    except ValueError:
        raise ValueError(f"shares: wanted NAME=NUMBER,NAME=NUMBER, got {text!r}") from None
