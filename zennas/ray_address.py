"""The address of a Ray cluster, and what is done where there is none; imported before Ray is."""

import os
import re
import socket

from zennas.records import UserError

ANSWER_S = 10.0  # that a cluster's head may take to answer


def keep_ray_on_loopback() -> None:
    """Bind the Ray of this process alone to 127.0.0.1; to be called before ray is imported, and not for a cluster.

    On Linux Ray takes a node address of 127.0.0.1 for a slip and listens on all interfaces. The variable is its own,
    and says that there is no cluster.
    """
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")


def check_address(address: str | None) -> None:
    """UserError for what is no address of a cluster ('auto', HOST:PORT), and where no Ray answers.

    None (no cluster) and 'local' are accepted. Ray itself would wait for an answer for minutes.
    """
    if address in (None, "auto", "local"):
        return
    match = re.fullmatch(r"([\w.-]+|\[[0-9a-fA-F:]+\]):(\d+)", address)
    right = (
        "the HOST:PORT that ray start --head printed (its port is 6379 by default), or 'auto' on a node of the cluster"
    )
    if match is None:
        raise UserError(f"--address: given '{address}', allowed: {right}")
    try:
        socket.create_connection((match[1].strip("[]"), int(match[2])), timeout=ANSWER_S).close()
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or error
        raise UserError(f"--address {address}: nobody answers there ({why}); give {right}") from None
    if os.environ.get("RAY_USE_TLS") == "1":
        return
    import grpc

    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            grpc.channel_ready_future(channel).result(timeout=ANSWER_S)
        except grpc.FutureTimeoutError:
            raise UserError(
                f"--address {address}: something answers there, but no Ray (8265 is its dashboard's port); give {right}"
            ) from None
