"""A new bundle into a running server, beside the one that answers, and back.

    cma-clip serve --publish --profile demo --config-name cpu          a server that allows it
    cma-clip publish BUNDLE --deploy deploy --url localhost:8001
    cma-clip publish --rollback --deploy deploy                        the bundle before; once more: the new one again

--deploy is the repository that the server runs over, and this its machine. The server answers meanwhile, so this
process takes a low priority. Clients that pin a label set are told at the switch (LabelSetChanged).
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from cma_clip.command import command

LOW_PRIORITY = 10  # a few hundredths of a busy core; at 19 it would be one, and take an hour


@command
def main(arguments: Sequence[str] | None = None) -> None:
    options = _parse(arguments)
    os.setpriority(os.PRIO_PROCESS, 0, LOW_PRIORITY)
    from serve.publish.run import run  # its imports take a while, and take it quietly

    run(options)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, nargs="?", help="directory written by training")
    parser.add_argument("--rollback", action="store_true", help="serve the bundle before again")
    parser.add_argument("--deploy", type=Path, default=Path("deploy"), help="the server's repository (%(default)s)")
    parser.add_argument("--url", default="localhost:8001", help="the server's gRPC address (%(default)s)")
    parser.add_argument("--precision", help="of the matrix products, as for cma-clip export")
    parser.add_argument("--data", type=Path, help="data set whose products are compared too, as for cma-clip export")
    parser.add_argument("--refuse-mismatches", action="store_true", help="as for cma-clip export")
    parser.add_argument(
        "--admin-key-file", type=Path, metavar="FILE", help="that of cma-clip serve --profile production"
    )
    parser.add_argument("--tls-ca", type=Path, metavar="FILE", help="PEM of the authority behind the server's TLS")
    parser.add_argument("--tls-cert", type=Path, metavar="FILE", help="PEM of our own certificate, for mutual TLS")
    parser.add_argument("--tls-key", type=Path, metavar="FILE", help="PEM of its key")
    options = parser.parse_args(arguments)
    if options.rollback == bool(options.bundle):
        parser.error("give a bundle, or --rollback")
    if (options.tls_cert is None) != (options.tls_key is None) or (options.tls_cert and not options.tls_ca):
        parser.error("mutual TLS needs --tls-ca, --tls-cert and --tls-key")
    return options


if __name__ == "__main__":
    sys.exit(main())
